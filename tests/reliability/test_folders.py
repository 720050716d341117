"""A live run owns its folder: no second run starts there, and none resumes from its checkpoints."""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from composing import settings

from diffusion import files
from diffusion.errors import FolderTaken
from diffusion.runs import jobs, slurm
from diffusion.runs.record import RunRecord, is_locked, start_of_process
from diffusion.runs.record import claim as claim_here
from diffusion.training import run as training

pytestmark = pytest.mark.reliability


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another live process."""
    started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield started
    started.communicate()


def claim(folder: Path, pid: int) -> None:
    """Write the record of a run by the process `pid`."""
    folder.mkdir(parents=True, exist_ok=True)
    RunRecord.begin(folder).update(pid=pid, process=start_of_process(pid))


@pytest.mark.parametrize("ckpt", [[], ["ckpt=auto"], ["ckpt=null"]])
def test_a_second_run_in_the_folder_of_a_live_run_is_refused(command, tiny, tmp_path, other, ckpt):
    claim(tmp_path / "run", other.pid)
    before = (tmp_path / "run/run.json").read_bytes()
    status, out, err = command("train", [*tiny, *ckpt, "hydra.run.dir=run"])
    assert status == 2, out + err
    (line,) = err.splitlines()
    for word in (f"process {other.pid} on {platform.node()}, since 20", "wait until it ends", "hydra.run.dir"):
        assert word in line
    assert (tmp_path / "run/run.json").read_bytes() == before
    assert not (tmp_path / "run/checkpoints").exists()
    other.communicate()
    status, out, err = command("train", [*tiny, *ckpt, "hydra.run.dir=run", "trainer.max_steps=1", "samples.n=0"])
    assert status == 0, out + err


def test_only_one_of_two_simultaneous_starts_gets_the_folder(tmp_path):
    """Without a lock, both would read before either has written."""
    code = (
        "import sys, time, pathlib; from diffusion.runs import record; print('ready', flush=True); input();"
        "record.claim(pathlib.Path(sys.argv[1]), lambda: time.sleep(0.5)); print('mine', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for started in both:
        assert started.stdout.readline() == "ready\n"
    for started in both:
        started.stdin.write("\n")
        started.stdin.flush()
    said = [started.stdout.readline() for started in both]
    assert sorted(said) == ["", "mine\n"]
    errors = [started.communicate()[1] for started in both]
    assert "a run is alive in this folder" in errors[said.index("")]
    assert RunRecord(tmp_path).content["pid"] == both[said.index("mine\n")].pid


def test_a_running_sweep_job_is_not_started_again(command, tiny, tmp_path, monkeypatch, other):
    def start(folder: Path, lock: BinaryIO) -> None:
        lock.close()
        claim(folder, other.pid)

    monkeypatch.setattr(jobs, "wait_for_process", start)
    overrides = ["-m", *tiny, "hydra.sweep.dir=sweep"]
    command("train", overrides)
    monkeypatch.setattr(jobs, "wait_for_process", lambda *_: pytest.fail("started again"))
    status, out, err = command("train", overrides)
    assert status == 2, out + err
    assert f"process {other.pid} on" in err
    assert RunRecord(tmp_path / "sweep/0").content["pid"] == other.pid


@pytest.mark.parametrize("ckpt", ["auto", "last"])
def test_a_run_does_not_resume_from_a_live_run(command, tiny, tmp_path, other, ckpt):
    short = [*tiny, "samples.n=0", "trainer.max_steps=1"]
    command("train", [*short, "hydra.run.dir=x/a"])
    claim(tmp_path / "x/a", other.pid)
    status, out, err = command("train", [*short, "hydra.run.dir=x/b", f"ckpt={ckpt}"])
    out = out.replace("\n", "")
    assert "x/a: it is running" in out
    assert "resuming from" not in out
    assert status == (0 if ckpt == "auto" else 2), err


def test_a_job_requeued_by_slurm_takes_back_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    RunRecord.begin(tmp_path).update(host="the node that failed")
    assert RunRecord(tmp_path).alive
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert slurm.queued_again()
    assert not RunRecord(tmp_path).alive


def test_a_zombie_process_counts_as_ended():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert start_of_process(child) is None
    os.waitpid(child, 0)


@pytest.mark.parametrize("wrong", ["model.channels=[7,9]", "data.batch_size=400"])
def test_a_run_that_fails_before_training_records_the_reason(command, tiny, tmp_path, wrong):
    status, out, err = command("train", [*tiny, wrong, "hydra.run.dir=run"])
    assert status == 2, out + err
    record = RunRecord(tmp_path / "run").content
    assert record["state"] == "failed"
    assert f"error: {record['reason']}" in err


def test_a_run_holds_its_folder_even_if_its_process_is_not_visible(command, tiny, tmp_path):
    """As from another container on the same machine, with different process ids."""
    code = (
        "import sys, pathlib; from diffusion.runs import record;"
        "record.claim(pathlib.Path(sys.argv[1])).update(pid=99999999); print('mine', flush=True); input()"
    )
    (tmp_path / "run").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"mine\n"
    assert RunRecord(tmp_path / "run").state == "running"
    status, out, err = command("train", [*tiny, "hydra.run.dir=run"])
    assert status == 2, out + err
    assert "a run is alive in this folder (process 99999999 on" in err
    holder.kill()
    holder.wait()
    assert RunRecord(tmp_path / "run").state == "died"
    status, out, err = command("train", [*tiny, "hydra.run.dir=run", "trainer.max_steps=1", "samples.n=0"])
    assert status == 0, out + err


def test_a_lock_held_by_another_program_gives_a_one_line_error(command, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    held = files.lock(tmp_path / "run/.lock")
    assert held is not None
    status, out, err = command("train", [*tiny, "hydra.run.dir=run"])
    held.close()
    assert status == 2, out + err
    (line,) = err.splitlines()
    assert "run/.lock); wait until it ends or end it" in line


def test_a_worker_that_outlives_its_run_does_not_hold_the_folder(tmp_path):
    record = claim_here(tmp_path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"1")
        signal.alarm(60)
        signal.pause()
    os.read(reading, 1)
    held = [is_locked(tmp_path)]
    record.lock.close()
    held.append(is_locked(tmp_path))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert held == [True, False]


def test_a_run_writes_nothing_after_its_folder_was_taken_over(tiny, tmp_path, monkeypatch):
    """A machine that was cut off and presumed dead comes back."""
    run = tmp_path / "run"
    run.mkdir()
    record = RunRecord.begin(run)
    other = RunRecord.begin(run)
    before = (run / "run.json").read_bytes()
    with pytest.raises(FolderTaken, match="another run took over this folder"), record.running(str):
        training.train(settings([*tiny, "samples.n=0", "trainer.max_steps=2"]), run, record)
    assert (run / "run.json").read_bytes() == before
    assert not list(run.glob("checkpoints/*.ckpt"))
    monkeypatch.setattr(RunRecord, "update", lambda *_, **__: None)  # it would notice before the first checkpoint
    with pytest.raises(FolderTaken, match="another run took over this folder"):
        training.train(settings([*tiny, "samples.n=0", "trainer.max_steps=2"]), run, record)
    assert not list(run.glob("checkpoints/*.ckpt"))
    other.check_owner()
