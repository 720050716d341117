"""T11: a run continues or saves itself when its console disappears or only its sweep's first process is interrupted."""

import contextlib
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


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("console", ["closed pipe", "full disk"])
def test_a_run_without_a_console_completes(tiny, tmp_path, console, unbuffered, figure, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reading, writing = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    output = writing if console == "closed pipe" else full
    run = start([*tiny, "trainer.max_steps=3", "hydra.run.dir=run"], tmp_path, stdout=output, stderr=output)
    os.close(writing)
    os.close(reading)
    os.close(full)
    assert run.wait() == 0
    assert state(tmp_path / "run")["state"] == "complete"
    assert (tmp_path / "run/README.md").is_file()
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()
    figure(f"the console is a {console}", "the run completes")


def test_output_lost_on_a_full_disk_is_reported(tiny, tmp_path):
    with open("/dev/full", "w") as full:
        run = start([*tiny, "trainer.max_steps=1", "hydra.run.dir=run"], tmp_path, stdout=full, stderr=subprocess.PIPE)
    assert b"warning: output was lost (No space left on device)" in run.communicate()[1]
    assert run.returncode == 0


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


def test_ctrl_c_sent_only_to_the_first_sweep_process_saves_and_ends_its_job(tiny, tmp_path, figure):
    words = ["-m", *tiny, "trainer.max_epochs=-1", "trainer.max_steps=100000", "hydra.sweep.dir=sweep"]
    sweep = start(words, tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while lines(tmp_path / "sweep/0/metrics.csv") < 4:
        assert sweep.poll() is None
        time.sleep(0.01)
    os.kill(sweep.pid, signal.SIGINT)
    assert sweep.wait(timeout=60) == 130
    assert state(tmp_path / "sweep/0")["state"] == "interrupted"
    assert (tmp_path / "sweep/0/checkpoints/last.ckpt").is_file()
    figure("Ctrl-C for the first process of a sweep alone", "its job saves and ends, too")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_parallel_jobs_save_and_end_if_their_sweep_ends(tiny, tmp_path, number, figure):
    """The workers of joblib outlive the process of the sweep."""
    words = ["-m", *tiny, "trainer.max_epochs=-1", "trainer.max_steps=100000", "hydra.sweep.dir=sweep", "seed=0,1"]
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    sweep = start(words, tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    jobs = [tmp_path / f"sweep/{i}" for i in range(2)]
    while any(lines(job / "metrics.csv") < 4 for job in jobs):
        assert sweep.poll() is None
        time.sleep(0.01)
    os.kill(sweep.pid, number)
    sweep.wait(timeout=60)
    pids, end = [state(job)["pid"] for job in jobs], time.monotonic() + 60
    while any(state(job)["state"] == "running" for job in jobs) and time.monotonic() < end:
        time.sleep(0.01)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended, unless the test fails
            os.kill(pid, signal.SIGKILL)
    for job in jobs:
        assert state(job)["state"] == "interrupted"
        assert (job / "checkpoints/last.ckpt").is_file()
    figure(f"{number.name} for the first process of a parallel sweep", "its jobs save and end")
