"""T9. The death of a sweep's job harms no other job; only missing jobs run again; no secret is stored."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import FORK, Train, train

from diffusion.runs import jobs
from diffusion.runs.naming import job_folder
from diffusion.runs.record import RunRecord
from diffusion.training import worker

pytestmark = pytest.mark.reliability

DEATHS = {  # the optimizer -> the text in the job's record
    "good": None,
    "error": "an ordinary error",
    "memory": "out of memory",
    "nan": "became nan",
    "leave": "SystemExit: 7",
    "vanish": "status 9",
    "kill": "SIGKILL",
    "other": None,
}
SECRET = "canary-7c1e55d0"


class Forked:
    """Replaces `subprocess.Popen([python, "-m", "diffusion.training.worker", FOLDER])` by a fork, to save imports."""

    def __init__(self, command: list[str], **options: object):
        assert command[:3] == [sys.executable, "-m", worker.__name__]
        self.process = FORK.Process(target=worker.main, args=(command[3:],))
        self.process.start()

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode


WAIT_FOR_PROCESS = jobs.wait_for_process  # the fixture `command` replaces it


@pytest.fixture
def launch(command, monkeypatch):
    """`launch(overrides)` -> (exit status, stdout, stderr) of `python -m diffusion.train` with forked jobs."""
    monkeypatch.setattr(jobs, "wait_for_process", WAIT_FOR_PROCESS)
    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(Popen=Forked))
    monkeypatch.setenv("MY_API_TOKEN", SECRET)
    return lambda overrides: command("train", overrides)


def records(folder: Path) -> dict[str, dict[str, object]]:
    return {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/run.json")}


def times(folder: Path) -> dict[str, int]:
    return {file.parts[-3]: file.stat().st_mtime_ns for file in folder.glob("*/checkpoints/last.ckpt")}


def leaks(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and SECRET in file.read_text("latin1")]


def test_dying_jobs_affect_no_others_and_only_they_run_again(launch, tiny, tmp_path, monkeypatch, figure):
    choice = "optimizer._target_=" + ",".join(f"deaths.{name}" for name in DEATHS)
    overrides = ["-m", *tiny, "trainer.max_steps=2", "samples.n=0", choice, "hydra.sweep.dir=sweep"]
    status, out, err = launch(overrides)
    assert status != 0
    found = records(tmp_path / "sweep")
    assert len(found) == 8, out + err
    for (name, reason), record in zip(DEATHS.items(), (found[str(i)] for i in range(8)), strict=True):
        assert record["state"] == ("complete" if reason is None else "failed"), name
        assert reason is None or reason in str(record["reason"]), record
    assert "hydra.sweep.dir=" in err
    before = times(tmp_path / "sweep")

    monkeypatch.setenv("CURED", "1")
    status, out, err = launch(overrides)
    assert status == 0, out + err
    assert {record["state"] for record in records(tmp_path / "sweep").values()} == {"complete"}
    after = times(tmp_path / "sweep")
    assert sorted(name for name in after if after[name] != before.get(name)) == ["1", "2", "3", "4", "5", "6"]

    config = tmp_path / "sweep/7/config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 5"))  # as if a default had changed since then
    status, out, err = launch(overrides)
    assert status == 2
    assert "sweep/7 contains checkpoints of a run with other settings" in err
    assert times(tmp_path / "sweep") == after
    status, out, err = launch([*overrides, "ckpt=null"])
    assert status == 0, out + err
    last = times(tmp_path / "sweep")
    assert [name for name in last if last[name] != after[name]] == ["7"]
    assert not leaks(tmp_path)
    figure("sweep of 8 jobs, 6 of them dying: siblings lost", 0)
    figure("jobs run again", "the 6 that died, and no other")


def test_the_reason_why_a_job_did_not_start_is_recorded(launch, tiny, tmp_path):
    status, _, _ = launch(["-m", *tiny, "data.batch_size=400", "hydra.sweep.dir=sweep"])
    assert status == 2
    record = records(tmp_path / "sweep")["0"]
    assert record["state"] == "failed"
    assert "an optimizer step needs 400" in str(record["reason"])


def test_a_sweep_job_is_a_separate_process(tiny, tmp_path):
    """Killing a job started from the command line ends neither its launcher nor the other jobs."""
    overrides = ["-m", *tiny, "trainer.max_steps=2", "samples.n=0", "optimizer._target_=deaths.kill"]
    done = subprocess.run(
        [sys.executable, "-m", "diffusion.train", *overrides, "hydra.sweep.dir=sweep"], cwd=tmp_path, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "killed by SIGKILL" in done.stderr
    assert records(tmp_path / "sweep")["0"]["state"] == "failed"


def one_launch(folder: str, barrier: object) -> None:
    """`python -m diffusion.train`, with a training that only writes a file."""
    from diffusion import train

    def write(settings: object, run: Path, record: object) -> None:
        with (run / "here").open("x"):
            pass

    os.chdir(folder)
    worker.run = write  # type: ignore[assignment]
    sys.argv = ["diffusion.train", "name=burst"]
    barrier.wait()  # type: ignore[attr-defined]
    train.main()


def test_eight_simultaneous_launches_get_eight_folders(tmp_path, figure):
    barrier = FORK.Barrier(8)
    started = [FORK.Process(target=one_launch, args=(str(tmp_path), barrier)) for _ in range(8)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 8
    folders = list((tmp_path / "outputs/burst").iterdir())
    assert len(folders) == 8
    assert all((folder / "here").is_file() for folder in folders)
    figure("eight launches at once", f"{len(folders)} folders")


def test_a_job_gets_its_previous_folder_and_never_that_of_another_job(tmp_path):
    grid = [["schedule=linear"], ["schedule=cosine"]]
    assert [job_folder(tmp_path, i, words) for i, words in enumerate(grid)] == ["0", "1"]
    assert job_folder(tmp_path, 5, ["schedule=cosine", "ckpt=auto"]) == "1"
    assert job_folder(tmp_path, 0, ["schedule=sigmoid"]) == "2"  # a study that restarts its count at 0
    assert job_folder(tmp_path, 0, ["schedule=linear"]) == "0"


@pytest.mark.parametrize("multirun", [[], ["-m"]])
@pytest.mark.parametrize(
    "override",
    [
        "+logger.api_key=of-no-variable",
        "name=${oc.env:MY_API_TOKEN}",
        f"name={SECRET}",
        f"+wandb_token={SECRET}",
        f"+db.url=https://me:{SECRET}@db/x",
        f"+db={{pwd: {SECRET}}}",
    ],
)
def test_a_secret_on_the_command_line_or_in_the_configuration_is_refused(
    command, tiny, tmp_path, monkeypatch, override, multirun
):
    monkeypatch.setenv("MY_API_TOKEN", SECRET)
    monkeypatch.setattr(jobs, "wait_for_process", lambda *_: pytest.fail("the job ran"))
    status, out, err = command("train", [*multirun, *tiny, override, "hydra.run.dir=run", "hydra.sweep.dir=run"])
    assert status != 0
    assert "would be saved with the run" in err
    if "oc.env" not in override:  # Hydra's line repeats the override, which contains only the name
        assert SECRET not in out + err
    assert not leaks(tmp_path)


@pytest.mark.parametrize("line", [f"name: {SECRET}", "data: {root: 'https://me:pass-word@host/x'}"])
def test_a_secret_in_a_file_of_choices_is_refused(command, tiny, tmp_path, monkeypatch, line):
    monkeypatch.setenv("MY_API_TOKEN", SECRET)
    (tmp_path / "choices/experiment").mkdir(parents=True)
    (tmp_path / "choices/experiment/leaky.yaml").write_text(f"# @package _global_\n{line}\n")
    words = [word for word in tiny if not word.startswith(("name=", "data.root="))]
    status, out, err = command(
        "train", ["--config-dir", "choices", *words, "experiment=leaky", "trainer.max_steps=1", "hydra.run.dir=run"]
    )
    assert status == 2, out + err
    assert "would be saved with the run" in err
    assert SECRET not in out + err
    assert not (tmp_path / "run/config.yaml").exists()


def test_a_job_whose_sweep_has_died_before_it_began_does_not_train(tiny, tmp_path):
    folder = tmp_path / "job"
    assert train([*tiny, "trainer.max_steps=1", "samples.n=0", f"hydra.run.dir={folder}"], tmp_path / "log") == 0
    (folder / "run.json").unlink()
    dead = subprocess.Popen(["true"])
    dead.wait()
    command = [sys.executable, "-m", jobs.WORKER, str(folder)]
    done = subprocess.run(command, env=os.environ | {jobs.LAUNCHER: str(dead.pid)}, capture_output=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert RunRecord(folder).state in ("not started", "interrupted")


def test_a_killed_optuna_study_resumes(tiny, tmp_path, figure):
    """One of two trials is complete: the other one resumes, and a third one has other values."""
    import optuna  # from the extra `sweep`, which dev includes

    overrides = ["-m", *tiny, "trainer.max_steps=2", "samples.n=0", "hydra/sweeper=optuna", "hydra.sweep.dir=study"]
    overrides += ["hydra.sweeper.study_name=lr", f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"]
    overrides += ["hydra.sweeper.n_jobs=1", "+hydra.sweeper.sampler.seed=1", "optimizer.lr=interval(1e-5,1e-2)"]

    def enter() -> None:
        os.chdir(tmp_path)
        jobs.subprocess = SimpleNamespace(Popen=Forked)  # type: ignore[attr-defined,assignment]

    killed = Train([*overrides, "hydra.sweeper.n_trials=2"], tmp_path / "log", enter)
    while not (tmp_path / "study/1/config.yaml").is_file():
        assert killed.alive
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.ended() == 137
    while RunRecord(tmp_path / "study/1").state == "running":  # until it notices that its launcher is gone
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
    figure("an Optuna study killed in the middle", "3 trials of 3 complete, none twice")
