"""SLURM's variables alone change nothing: only processes started by us or by torchrun form a group."""

import json
import os
import signal
import sys

import pytest

from diffusion.errors import Interrupted
from diffusion.runs import jobs, slurm


def test_training_in_a_shell_of_a_slurm_allocation_uses_one_process(command, tiny, tmp_path, monkeypatch):
    variables = {"JOB_ID": "7", "NTASKS": "2", "JOB_NAME": "zsh", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    status, _, err = command("train", [*tiny, "trainer.max_steps=1", "samples.n=0", "hydra.run.dir=run"])
    assert status == 0, err
    assert json.loads((tmp_path / "run/run.json").read_text())["devices"] == 1


def test_several_srun_tasks_are_refused_without_torchrun(command, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    status, _, err = command("train", tiny)
    assert status == 2
    assert "srun started 2 tasks" in err
    assert not list(tmp_path.rglob("run.json"))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    slurm.check_tasks()


@pytest.mark.parametrize(("restarts", "mine"), [("0", False), ("1", True)])
def test_only_a_requeued_job_gets_its_earlier_folder(tmp_path, monkeypatch, restarts, mine):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        slurm.mark(tmp_path / name, [f"seed={name}"])
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    for name in ("1", "2"):
        assert slurm.marked(tmp_path, [f"seed={name}"]) == (tmp_path / name if mine else None)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert slurm.marked(tmp_path, ["seed=1"]) is None


@pytest.mark.parametrize(("number", "calls"), [(signal.SIGUSR1, 1), (signal.SIGTERM, 0)])
def test_the_job_is_requeued_only_on_sigusr1(monkeypatch, number, calls):
    called = []
    monkeypatch.setattr(slurm, "requeue", lambda: called.append(number))

    @jobs.relaying_signals()
    def signalled():
        try:
            os.kill(os.getpid(), number)
        except Interrupted as stop:
            sys.exit(stop.status)

    with pytest.raises(SystemExit):
        signalled()
    assert len(called) == calls
