"""A live run owns its folder: no second run starts there."""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion import files
from diffusion.runs.record import CONFIG, RunRecord, claim, is_locked

pytestmark = pytest.mark.reliability

CLAIM = (
    "import sys, time, pathlib; from diffusion.runs import record; print('ready', flush=True); input();"
    "held = record.claim(pathlib.Path(sys.argv[1]), [], lambda: time.sleep(0.5)); print('mine', flush=True); input()"
)


def starting(folder: Path) -> subprocess.Popen[str]:
    """A process that claims the folder when it gets a line, and holds it until it gets another one."""
    folder.mkdir(exist_ok=True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = subprocess.Popen([sys.executable, "-c", CLAIM, str(folder)], **pipes)  # type: ignore[call-overload]
    assert started.stdout.readline() == "ready\n"
    return started


def answer(started: subprocess.Popen[str]) -> str:
    """Let it claim the folder."""
    assert started.stdin is not None
    assert started.stdout is not None
    started.stdin.write("\n")
    started.stdin.flush()
    return started.stdout.readline()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A live process that runs in the folder `run`."""
    started = starting(tmp_path / "run")
    assert answer(started) == "mine\n"
    yield started
    started.kill()
    started.wait()


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_second_run_in_the_folder_of_a_live_run_is_refused(command, tiny, tmp_path, owner, multirun):
    before = (tmp_path / "run/run.json").read_bytes()
    words = [*multirun, *tiny, "hydra.run.dir=run", "hydra.sweep.dir=.", "hydra.sweep.subdir=run", "samples.n=0"]
    status, out, err = command("train", words)
    assert status == 2, out + err
    assert f"process {owner.pid} on {platform.node()}, since 20" in err
    assert (tmp_path / "run/run.json").read_bytes() == before
    assert not (tmp_path / "run/checkpoints").exists()
    owner.kill()
    owner.wait()
    assert RunRecord(tmp_path / "run").state == "died"
    status, out, err = command("train", [*words, "trainer.max_steps=1"])
    assert status == 0, out + err


def test_only_one_of_two_simultaneous_starts_gets_the_folder(tmp_path):
    """Without a lock, both would read before either has written."""
    both = [starting(tmp_path) for _ in range(2)]
    for started in both:
        assert started.stdin is not None
        started.stdin.write("\n")
        started.stdin.flush()
    said = [started.stdout.readline() for started in both if started.stdout is not None]
    assert sorted(said) == ["", "mine\n"]
    errors = [started.communicate("\n")[1] for started in both]
    assert "a run is alive in this folder" in errors[said.index("")]
    assert RunRecord(tmp_path).content["pid"] == both[said.index("mine\n")].pid


def test_the_processes_of_a_run_hold_its_folder_after_the_one_that_started_them(tmp_path):
    """But no worker of a data loader does."""
    record = claim(tmp_path, [])
    first = RunRecord.join(tmp_path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"1")
        signal.alarm(60)
        signal.pause()
    os.read(reading, 1)
    held = []
    for each in (record, first):
        held.append(is_locked(tmp_path))
        each.lock.close()
    held.append(is_locked(tmp_path))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert held == [True, True, False]


def test_a_job_requeued_by_slurm_takes_back_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    record = claim(tmp_path, [])
    assert RunRecord(tmp_path).alive
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert not RunRecord(tmp_path).alive
    record.lock.close()


@pytest.mark.parametrize("wrong", ["model.channels=[7,9]", "data.batch_size=400"])
def test_a_run_that_fails_before_training_records_the_reason(command, tiny, tmp_path, wrong):
    status, out, err = command("train", [*tiny, wrong, "hydra.run.dir=run"])
    assert status == 2, out + err
    record = RunRecord(tmp_path / "run").content
    assert record["state"] == "failed"
    assert f"error: {record['reason']}" in err


def test_a_start_that_fails_leaves_the_record_and_the_settings_of_the_earlier_run(tmp_path):
    (tmp_path / CONFIG).write_text("seed: 1\n")
    (tmp_path / "run.json").write_text('{"state": "complete"}')
    record = claim(tmp_path, [])
    (tmp_path / CONFIG).write_text("seed: 2\n")
    with pytest.raises(ZeroDivisionError), record.running(str):
        raise ZeroDivisionError
    assert (tmp_path / CONFIG).read_text() == "seed: 1\n"
    assert RunRecord(tmp_path).content == {"state": "complete"}


def test_a_full_disk_does_not_hide_why_a_run_failed(tmp_path, monkeypatch):
    def full(path, *parts, **options):
        raise OSError(28, "No space left on device", str(path))

    record = claim(tmp_path, [])
    monkeypatch.setattr("diffusion.runs.record.replace", full)
    with pytest.raises(ZeroDivisionError) as caught, record.running(str):
        raise ZeroDivisionError
    assert caught.value.__context__ is None


def test_a_lock_held_by_another_program_gives_a_one_line_error(command, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    held = files.lock(tmp_path / "run/.lock")
    assert held is not None
    status, out, err = command("train", [*tiny, "hydra.run.dir=run"])
    held.close()
    assert status == 2, out + err
    (line,) = err.splitlines()
    assert "run/.lock" in line
