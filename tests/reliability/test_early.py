"""A signal before training starts, even before torch is imported, ends the run in the same way as later."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion.runs import early_signals

pytestmark = pytest.mark.reliability

TERM, INT, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1


def catches(pid: int) -> bool:
    """Whether the process has a handler for SIGUSR1."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    mask = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0")
    return bool(int(mask, 16) >> USR1 - 1 & 1)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Started:
    """`python -m diffusion.train` as a SLURM job, in its own process group."""

    def __init__(self, overrides: list[str], folder: Path):
        self.calls, program = folder / "calls", folder / "bin/scontrol"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho "$@" >> "{self.calls}"\n')
        program.chmod(0o755)
        variables = {"PATH": f"{program.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "diffusion.train", *overrides, "name=x"], cwd=folder, env=os.environ | variables,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        while not catches(self.process.pid):
            assert self.process.poll() is None
            time.sleep(0.002)
        assert "libtorch" not in Path(f"/proc/{self.process.pid}/maps").read_text()

    def job(self, begun: bool) -> int:
        """The process of a sweep's job as soon as it exists, or with `begun` once it catches signals."""
        while not (found := children(self.process.pid)) or (begun and not catches(found[0])):
            assert self.process.poll() is None
            time.sleep(0.002)
        return found[0]

    def ended(self, number: int) -> str:
        """Return its output, after checks of its exit status and of the calls of scontrol."""
        said, _ = self.process.communicate(timeout=100)
        assert self.process.returncode == 128 + number, said
        requeued = self.calls.read_text() if self.calls.exists() else ""
        assert requeued == ("requeue 7\n" if number == USR1 else ""), said
        assert "Traceback" not in said
        return said


@pytest.mark.parametrize(
    ("number", "recorded"), [(USR1, False), (USR1, True), (TERM, False), (TERM, True), (INT, False), (INT, True)]
)
def test_a_signal_before_training_interrupts_the_run(tiny, tmp_path, number, recorded, figure):
    """The signal comes as soon as the run catches signals, or as soon as its record says that it is running."""
    run = Started(tiny, tmp_path)
    while recorded and not list(tmp_path.rglob("run.json")):
        time.sleep(0.001)
    os.kill(run.process.pid, number)
    assert run.ended(number).count(number.name) == 1
    records = [json.loads(file.read_text()) for file in tmp_path.rglob("run.json")]
    assert [(said["state"], said["reason"]) for said in records] == [("interrupted", number.name)] * recorded
    cases.append(number)
    figure("signalled before training began", f"{len(cases)}, each ended and queued again as during training")


cases: list[int] = []


@pytest.mark.parametrize(("number", "begun", "after"), [(USR1, False, 0), (USR1, True, 0.5), (TERM, True, 0)])
def test_a_signal_before_training_interrupts_the_sweep_and_its_job(tiny, tmp_path, number, begun, after):
    run = Started(["-m", *tiny, "seed=0,1"], tmp_path)
    run.job(begun)
    time.sleep(after)
    os.kill(run.process.pid, number)
    run.ended(number)
    (file,) = tmp_path.glob("outputs/x/*/*/run.json")  # no other job was started
    said = json.loads(file.read_text())
    assert (said["state"], said["reason"].rpartition(" ")[2]) == ("interrupted", number.name)


def test_a_signal_to_one_sweep_job_does_not_stop_the_others(tiny, tmp_path):
    """It ends immediately, even during imports; the other jobs run."""
    run = Started(["-m", *tiny, "seed=0,1", "trainer.max_steps=1"], tmp_path)
    job = run.job(True)
    assert "libtorch" not in Path(f"/proc/{job}/maps").read_text()
    os.kill(job, TERM)
    run.process.communicate(timeout=200)
    states = [json.loads(file.read_text())["state"] for file in sorted(tmp_path.glob("outputs/x/*/*/run.json"))]
    assert states == ["interrupted", "complete"]


def test_a_signal_before_the_first_job_ends_the_sweep(tiny, tmp_path):
    run = Started(["-m", *tiny, "seed=0,1"], tmp_path)
    os.kill(run.process.pid, USR1)
    assert "SIGUSR1: training had not started" in run.ended(USR1)


@pytest.mark.parametrize(("rank", "handler"), [("0", early_signals.end), ("1", early_signals.note)])
def test_early_signals_end_rank_0_and_are_only_recorded_by_other_ranks(monkeypatch, rank, handler):
    before = {number: signal.getsignal(number) for number in early_signals.CAUGHT}
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(early_signals.State, "received", None)
    try:
        early_signals.watch()
        assert signal.getsignal(USR1) is handler
        if rank == "1":
            from diffusion.training import signals

            os.kill(os.getpid(), USR1)
            with signals.catching():  # nothing is raised
                assert signals.State.received == USR1
    finally:
        for number, old in before.items():
            signal.signal(number, old)
