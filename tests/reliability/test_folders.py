"""A run that is alive has its folder to itself: no second run starts there, and none resumes from what it saves."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion.runs import jobs, slurm
from diffusion.runs.record import RunRecord, start_of_process

pytestmark = pytest.mark.reliability


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process that is alive."""
    started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield started
    started.communicate()


def claim(folder: Path, pid: int) -> None:
    """Write the record of a run of the process `pid`."""
    folder.mkdir(parents=True, exist_ok=True)
    RunRecord.begin(folder).update(pid=pid, process=start_of_process(pid))


@pytest.mark.parametrize("ckpt", [[], ["ckpt=auto"], ["ckpt=null"]])
def test_no_second_run_starts_beside_one_that_is_alive(command, tiny, tmp_path, other, ckpt):
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


def test_of_two_starts_in_one_instant_one_has_the_folder(tmp_path):
    """Without a lock, both would look before either has written."""
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


def test_a_job_that_runs_is_not_started_again(command, tiny, tmp_path, monkeypatch, other):
    def start(folder: Path) -> None:
        claim(folder, other.pid)

    monkeypatch.setattr(jobs, "wait_for_process", start)
    overrides = ["-m", *tiny, "hydra.sweep.dir=sweep"]
    command("train", overrides)
    monkeypatch.setattr(jobs, "wait_for_process", lambda folder: pytest.fail("started again"))
    status, out, err = command("train", overrides)
    assert status == 2, out + err
    assert f"process {other.pid} on" in err
    assert RunRecord(tmp_path / "sweep/0").content["pid"] == other.pid


@pytest.mark.parametrize("ckpt", ["auto", "last"])
def test_no_run_resumes_from_another_one_that_is_alive(command, tiny, tmp_path, other, ckpt):
    short = [*tiny, "samples.n=0", "trainer.max_steps=1"]
    command("train", [*short, "hydra.run.dir=x/a"])
    claim(tmp_path / "x/a", other.pid)
    status, out, err = command("train", [*short, "hydra.run.dir=x/b", f"ckpt={ckpt}"])
    out = out.replace("\n", "")
    assert "x/a: it is running" in out
    assert "resuming from" not in out
    assert status == (0 if ckpt == "auto" else 2), err


def test_a_job_that_slurm_queued_again_takes_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    RunRecord.begin(tmp_path).update(host="the node that failed")
    assert RunRecord(tmp_path).alive
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert slurm.queued_again()
    assert not RunRecord(tmp_path).alive


def test_a_process_that_has_ended_unnoticed_is_gone():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert start_of_process(child) is None
    os.waitpid(child, 0)


@pytest.mark.parametrize("wrong", ["model.channels=[7,9]", "data.batch_size=400"])
def test_a_run_that_ends_before_it_begins_says_why(command, tiny, tmp_path, wrong):
    status, out, err = command("train", [*tiny, wrong, "hydra.run.dir=run"])
    assert status == 2, out + err
    record = RunRecord(tmp_path / "run").content
    assert record["state"] == "failed"
    assert f"error: {record['reason']}" in err
