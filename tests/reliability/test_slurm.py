"""SIGUSR1 under SLURM: the run is saved and requeued once; the same command line resumes it in its folder."""

import json
import os
from pathlib import Path

import pytest
from forked import launch_forked, train

from diffusion.checkpoint import storage
from diffusion.training import jobs

pytestmark = pytest.mark.reliability

STEP = {  # as in a task of an array job started by `srun`
    "SLURM_JOB_ID": "77", "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1", "SLURM_NODELIST": "localhost",
    "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
}  # fmt: skip


class Cluster:
    """A folder with a `scontrol` on its PATH that records its calls."""

    def __init__(self, folder: Path):
        self.folder, self.notes, self.log = folder, folder / "notes", folder / "log"
        (folder / "bin").mkdir()
        program = folder / "bin/scontrol"
        program.write_text(f'#!/bin/sh\necho "$@" >> "{self.notes}"\n')
        program.chmod(0o755)

    def run(self, overrides: list[str], **more: str) -> tuple[int, str]:
        """Run `diffusion train OVERRIDES` in a fork, which saves imports; return exit status and output."""
        self.log.unlink(missing_ok=True)
        self.overrides = overrides
        status = train(overrides, self.log, lambda: self.enter(STEP | more))
        return status, self.log.read_text()

    def enter(self, variables: dict[str, str]) -> None:
        os.chdir(self.folder)
        os.environ |= {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"} | variables
        if "-m" in self.overrides:
            jobs.run_ranks = launch_forked  # type: ignore[assignment]

    def calls(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


def steps(folder: Path) -> list[int]:
    """The steps of all lines of metrics.csv with a loss."""
    header, *lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [int(float(line[header.index("step")])) for line in lines if line[header.index("train/loss")]]


def test_a_signal_to_one_of_two_processes_requeues_once_and_the_run_resumes(tiny, tmp_path):
    cluster = Cluster(tmp_path)
    overrides = [*tiny, "samples.n=0", "optimizer._target_=doubles.second_signalling", "name=x"]
    overrides += ["data.batch_size=2", "trainer.devices=2"]
    status, output = cluster.run(overrides)
    assert status == 138, output
    assert cluster.calls() == ["requeue 70_3"]
    (folder,) = (tmp_path / "outputs/x").iterdir()
    assert json.loads((folder / "run.json").read_text())["state"] == "interrupted"
    assert storage.load(folder / "checkpoints/last.ckpt")["global_step"] == 3
    (tmp_path / "outputs/x/newer").mkdir()  # of another job

    status, output = cluster.run(overrides, SLURM_RESTART_COUNT="1")
    assert status == 0, output
    assert "step-00000003.ckpt, step 3" in output
    assert sorted(path.name for path in (tmp_path / "outputs/x").iterdir()) == sorted([folder.name, "newer"])
    assert json.loads((folder / "run.json").read_text())["state"] == "complete"
    assert steps(folder) == [*range(12)]
    assert cluster.calls() == ["requeue 70_3"]

    assert "already complete" in cluster.run(overrides, SLURM_RESTART_COUNT="2")[1]


def test_a_requeued_sweep_resumes_in_its_folder(tiny, tmp_path):
    cluster = Cluster(tmp_path)
    overrides = ["-m", *tiny, "samples.n=0", "optimizer._target_=torch.optim.Adam,doubles.signalling", "name=x"]
    status, output = cluster.run(overrides)
    assert status == 138, output
    assert cluster.calls() == ["requeue 70_3"]
    (sweep,) = (tmp_path / "outputs/x").iterdir()
    whole = (sweep / "0/checkpoints/last.ckpt").stat().st_mtime_ns

    status, output = cluster.run(overrides, SLURM_RESTART_COUNT="1")
    assert status == 0, output
    assert list((tmp_path / "outputs/x").iterdir()) == [sweep]
    assert (sweep / "0/checkpoints/last.ckpt").stat().st_mtime_ns == whole
    assert steps(sweep / "1") == [*range(12)]


def test_a_shell_of_an_allocation_starts_one_process_and_several_srun_tasks_are_refused(
    command, refused, tiny, tmp_path, monkeypatch
):
    """SLURM's variables alone change nothing: only processes started by us or by torchrun form a group."""
    variables = {"JOB_ID": "7", "NTASKS": "2", "JOB_NAME": "zsh", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    words = [*tiny, "trainer.max_steps=1", "samples.n=0", "hydra.run.dir=run"]
    assert "srun started 2 tasks" in refused("train", words)
    assert not list(tmp_path.rglob("run.json"))
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    status, _, err = command("train", words)
    assert status == 0, err
    assert json.loads((tmp_path / "run/run.json").read_text())["devices"] == 1
