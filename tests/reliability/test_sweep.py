"""The death of a sweep's job harms no other job; only missing jobs run again."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from forked import FORK, Train, launch_forked, train

from diffusion.runs import jobs
from diffusion.runs.record import RunRecord
from diffusion.training import worker

pytestmark = pytest.mark.reliability

DEATHS = {  # the optimizer -> the text in the job's record
    "good": None,
    "error": "an ordinary error",
    "kill": "SIGKILL",
    "other": None,
}


def records(folder: Path) -> dict[str, dict[str, object]]:
    return {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/run.json")}


def times(folder: Path) -> dict[str, int]:
    return {file.parts[-3]: file.stat().st_mtime_ns for file in folder.glob("*/checkpoints/last.ckpt")}


def test_dying_jobs_affect_no_others_and_only_they_run_again(command, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "launch", launch_forked)
    choice = "optimizer._target_=" + ",".join(f"doubles.{name}" for name in DEATHS)
    words = ["train", ["-m", *tiny, "trainer.max_steps=2", "samples.n=0", choice, "hydra.sweep.dir=sweep"]]
    status, out, err = command(*words)
    assert status != 0
    found = records(tmp_path / "sweep")
    assert len(found) == len(DEATHS), out + err
    for i, (name, reason) in enumerate(DEATHS.items()):
        assert found[str(i)]["state"] == ("complete" if reason is None else "failed"), name
        assert reason is None or reason in str(found[str(i)]["reason"]), found[str(i)]
    assert "hydra.sweep.dir=" in err
    before = times(tmp_path / "sweep")

    monkeypatch.setenv("CURED", "1")
    status, out, err = command(*words)
    assert status == 0, out + err
    assert {record["state"] for record in records(tmp_path / "sweep").values()} == {"complete"}
    after = times(tmp_path / "sweep")
    again = [name for name in sorted(after) if after[name] != before.get(name)]
    assert again == [str(i) for i, reason in enumerate(DEATHS.values()) if reason]

    config = tmp_path / "sweep/3/config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 5"))  # as if a default had changed since then
    status, out, err = command(*words)
    assert status == 2
    assert "sweep/3 contains checkpoints of a run with other settings" in err
    assert times(tmp_path / "sweep") == after
    status, out, err = command(words[0], [*words[1], "ckpt=null"])
    assert status == 0, out + err
    last = times(tmp_path / "sweep")
    assert [name for name in last if last[name] != after[name]] == ["3"]


def one_launch(folder: str, barrier: object) -> None:
    """`python -m diffusion.train`, with a training that only writes a file."""
    from diffusion import train

    def write(settings: object, run: Path, record: object) -> None:
        with (run / "here").open("x"):
            pass

    os.chdir(folder)
    worker.train = write  # type: ignore[assignment]
    sys.argv = ["diffusion.train", "name=burst"]
    barrier.wait()  # type: ignore[attr-defined]
    train.main()


def test_four_simultaneous_launches_get_four_folders(tmp_path):
    barrier = FORK.Barrier(4)
    started = [FORK.Process(target=one_launch, args=(str(tmp_path), barrier)) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 4
    folders = list((tmp_path / "outputs/burst").iterdir())
    assert len(folders) == 4
    assert all((folder / "here").is_file() for folder in folders)


def test_a_killed_optuna_study_resumes(tiny, tmp_path):
    """One of two trials is complete: the other one, which saves and ends, resumes, and a third one has other values."""
    import optuna  # from the extra `sweep`, which dev includes

    overrides = ["-m", *tiny, "trainer.max_steps=2", "samples.n=0", "hydra/sweeper=optuna", "hydra.sweep.dir=study"]
    overrides += ["hydra.sweeper.study_name=lr", f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"]
    overrides += ["hydra.sweeper.n_jobs=1", "+hydra.sweeper.sampler.seed=1", "optimizer.lr=interval(1e-5,1e-2)"]

    def enter() -> None:
        os.chdir(tmp_path)
        jobs.launch = launch_forked  # type: ignore[assignment]

    killed = Train([*overrides, "hydra.sweeper.n_trials=2"], tmp_path / "log", enter)
    while not (tmp_path / "study/1/config.yaml").is_file():
        assert killed.alive
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.ended() == 137
    while RunRecord(tmp_path / "study/1").state == "running":  # until it notices that its sweep is gone
        time.sleep(0.01)
    for said in ("1 of 3 trials complete; running 1 stopped trial again", "3 of 3 trials complete"):
        log = tmp_path / said
        assert train([*overrides, "hydra.sweeper.n_trials=3"], log, enter) == 0, log.read_text()
        assert said in log.read_text()
    trials = optuna.load_study(study_name="lr", storage=f"sqlite:///{tmp_path}/study.db").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    first, stopped, resumed, new = (trial.params["optimizer.lr"] for trial in trials)
    assert stopped == resumed
    assert len({first, resumed, new}) == 3
    assert {i: record["state"] for i, record in records(tmp_path / "study").items()} == dict.fromkeys("012", "complete")
