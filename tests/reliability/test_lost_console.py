"""T11: a run continues or saves itself when its console disappears or only its sweep's first process is interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from diffusion.checkpoint import storage

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(200)]


def start(overrides: list[str], folder: Path, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "diffusion.train", *overrides, "samples.n=0"]
    return subprocess.Popen(command, cwd=folder, start_new_session=True, **options)


def state(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text()) if (run / "run.json").exists() else {}


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_a_run_without_a_console_completes(tiny, tmp_path, figure):
    reading, writing = os.pipe()
    run = start([*tiny, "trainer.max_steps=3", "hydra.run.dir=run"], tmp_path, stdout=writing, stderr=writing)
    os.close(writing)
    os.close(reading)
    assert run.wait() == 0
    assert state(tmp_path / "run")["state"] == "complete"
    assert (tmp_path / "run/README.md").is_file()
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()
    figure("the console is a closed pipe", "the run completes")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGXCPU])
def test_sighup_and_sigxcpu_save_the_run_before_it_ends(tiny, tmp_path, number, figure):
    run = start(
        [*tiny, "trainer.max_epochs=-1", "trainer.max_steps=100000", "hydra.run.dir=run"],
        tmp_path,
        stdout=subprocess.DEVNULL,
    )
    while lines(tmp_path / "run/metrics.csv") < 4:
        assert run.poll() is None
        time.sleep(0.01)
    os.kill(run.pid, number)
    assert run.wait() == 128 + number
    said = state(tmp_path / "run")
    assert (said["state"], said["reason"]) == ("interrupted", number.name)
    assert storage.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == said["steps"] > 0
    figure(f"{number.name}", "saved at the next step")
