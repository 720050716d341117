"""Several processes run one search: none of its trials is lost or run twice when one of them is killed."""

import os
import signal
import time
from functools import partial

import optuna
import pytest
from forked import Train, launch_forked

from diffusion.runs.record import RunRecord
from diffusion.training import jobs

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(300)]
TRIALS = 8


def test_the_trials_of_a_killed_process_are_resumed_by_the_others(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*tiny, "samples.n=0", "trainer.max_epochs=-1", "trainer.max_steps=60", "checkpoint.every_n_steps=10"]
    words += ["-m", "hydra/sweeper=search", "optimizer.lr=interval(1e-4,1e-2)", "hydra.sweep.dir=study"]
    words += [f"hydra.sweeper.n_trials={TRIALS}", "hydra/sweeper/pruner=none"]
    prepare = partial(setattr, jobs, "run_ranks", launch_forked)
    workers = {(each := Train(words, tmp_path / f"log{i}", prepare)).pid: each for i in range(4)}
    running: list[RunRecord] = []
    while not running:
        records = [RunRecord(file.parents[1]) for file in tmp_path.glob("study/*/checkpoints/last.ckpt")]
        running = [record for record in records if record.state == "running"]
        time.sleep(0.02)
    killed = running[0]
    os.kill(killed.content["pid"], signal.SIGKILL)
    for pid, worker in workers.items():
        assert worker.ended() == (137 if pid == killed.content["pid"] else 0), worker.log.read_text()
    journal = optuna.storages.journal.JournalFileBackend("study/study.journal")
    trials = optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(journal)).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * TRIALS
    assert len({trial.params["optimizer.lr"] for trial in trials}) == TRIALS
    folders = [tmp_path / "study" / trial.user_attrs["folder"] for trial in trials]
    assert len({*folders}) == TRIALS
    said = "".join(worker.log.read_text() for worker in workers.values())
    for folder in folders:
        assert RunRecord(folder).state == "complete"
        assert said.count(f"run folder: {folder}\n") == 1 + (folder == killed.folder)
    assert RunRecord(killed.folder).content["first_step"] > 0  # it was resumed
