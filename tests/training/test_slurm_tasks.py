"""SLURM's variables alone change nothing: only processes started by us or by torchrun form a group."""

import json
import os
import signal

import pytest
from lightning.pytorch.utilities import rank_zero_only

from diffusion.errors import Interrupted
from diffusion.runs import slurm
from diffusion.runs.naming import new_folder
from diffusion.training import signals


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
    first = new_folder(str(tmp_path / "a"), ("seed=1",))
    other = new_folder(str(tmp_path / "b"), ("seed=2",))
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    assert (new_folder(str(tmp_path / "c"), ("seed=2",)) == other) is mine
    assert (new_folder(str(tmp_path / "d"), ("seed=1",)) == first) is mine
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert new_folder(str(tmp_path / "e")) == str(tmp_path / "e")


@pytest.mark.parametrize(
    ("number", "rank", "calls"), [(signal.SIGUSR1, 0, 1), (signal.SIGUSR1, 1, 0), (signal.SIGTERM, 0, 0)]
)
def test_only_rank_0_requeues_the_job_and_only_on_sigusr1(monkeypatch, number, rank, calls):
    called = []
    monkeypatch.setattr(slurm, "requeue", lambda: called.append(number))
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    before = {caught: signal.getsignal(caught) for caught in signals.CAUGHT}
    try:
        with pytest.raises(Interrupted), signals.catching():
            os.kill(os.getpid(), number)
    finally:
        signals.restore(before)
    assert len(called) == calls
