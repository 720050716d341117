"""Sweeps and searches: their folders, the jobs that run again, and the metrics that Optuna may optimize."""

import json
import sys

import optuna
import pytest
import yaml

from diffusion.runs import naming
from diffusion.runs.folder import is_sweep, read_metrics
from diffusion.runs.record import RunRecord
from diffusion.training import jobs

SHORT = ["trainer.max_steps=1", "samples.n=0"]
SEARCH = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "hydra.sweeper.n_jobs=1", "hydra.sweep.dir=study"]


@pytest.fixture
def started(monkeypatch) -> list[str]:
    """The names of the folders of jobs that are started; they complete immediately."""
    ran = []

    def start(processes, folder, *_):
        ran.append(folder.name)
        RunRecord.join(folder).finish("complete", result=1.0)

    monkeypatch.setattr(jobs, "launch", start)
    return ran


def test_a_sweep_without_a_name_has_one_folder_named_after_the_model(command, tiny, tmp_path, started):
    assert command("train", ["-m", *tiny, "seed=0", "schedule=linear,cosine"])[0] == 0
    (sweep,) = (tmp_path / "outputs").glob("*/*")
    assert sweep.parent.name == "unet_tiny"
    assert sweep.name.startswith("sweep-")
    assert [RunRecord(sweep / job).state for job in ("0", "1")] == ["complete", "complete"]
    assert is_sweep(sweep)
    recorded = RunRecord(sweep / "1").content["command"]
    assert recorded.startswith("diffusion train data=folder")
    assert "seed=0 schedule=cosine" in recorded


def test_a_sweep_over_no_values_is_refused(command, tiny, started):
    status, _, err = command("train", ["-m", *tiny, "seed=range(0,0)"])
    assert (status, err.count("\n")) == (2, 1)
    assert "seed=range(0,0)" in err


@pytest.mark.filterwarnings("error::UserWarning")  # runs without numbers are compared, too
def test_only_a_complete_job_is_not_run_again(command, tiny, tmp_path, started):
    words = ["-m", *tiny, "seed=0,1", "hydra.sweep.dir=sweep"]
    folder = tmp_path / "sweep/1"

    def ckpt_of_next_job(state: str, *more: str) -> str | None:
        (folder / "run.json").write_text(json.dumps({"state": state}))
        assert command("train", [*words, *more])[0] == 0
        return yaml.safe_load((folder / "config.yaml").read_text())["ckpt"]

    assert command("train", words)[0] == 0
    assert ckpt_of_next_job("died") is None  # before its first checkpoint
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/last.ckpt").touch()
    assert ckpt_of_next_job("complete") is None
    assert started == ["0", "1", "1"]
    assert ckpt_of_next_job("interrupted") == "auto"
    assert ckpt_of_next_job("failed", "ckpt=null") is None


@pytest.mark.parametrize("word", ["schedule=choice(linear,cosine)", "experiment=edm,flow"])
def test_searches_with_incomparable_trials_are_refused(command, tiny, tmp_path, word):
    status, out, err = command("train", [*SEARCH, *tiny, word])
    assert status == 2, out + err
    assert err.startswith("error: sweep.score=val/mse: errors of trials that differ in")
    assert not list(tmp_path.glob("study/*/run.json"))


def test_a_sample_score_can_compare_trials_of_different_tasks(command, tiny, tmp_path):
    words = ["score.n=8", "score.baselines=[]", "samples.n=0", "features=lite0", "trainer.max_steps=2"]
    words += ["schedule=choice(cosine,linear)", "optimizer.lr=interval(1e-4,1e-2)"]
    words += ["sweep.score=val/kid_lite0", "hydra.sweeper.n_trials=2"]
    status, out, err = command("train", [*SEARCH, *tiny, *words])
    assert status == 0, out + err
    trials = [tmp_path / f"study/{i}" for i in range(2)]
    kids = [read_metrics(trial / "metrics.csv")["val/kid_lite0"].value[-1] for trial in trials]
    assert kids == [json.loads((trial / "run.json").read_text())["result"] for trial in trials]
    assert len({*kids}) > 1
    assert f"best_value: {min(kids)}" in (tmp_path / "study/optimization_results.yaml").read_text()


def test_a_failed_trial_does_not_end_a_search(command, tiny, tmp_path):
    """A negative learning rate, which this seed draws first, is refused."""
    words = ["hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=0", "hydra.sweeper.n_trials=2"]
    words += ["optimizer.lr=choice(1e-3,-1.0)"]
    _, out, err = command("train", [*SEARCH, *tiny, *SHORT, *words])
    assert [RunRecord(tmp_path / "study" / job).state for job in ("0", "1")] == ["failed", "complete"], out + err
    assert (tmp_path / "study/optimization_results.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep.score=val/fid", "score.n=8", "features=lite0"], "such as val/fd_lite0"),
        (["sweep.score=val/fd_lite0"], "no scores (score.n=0)"),
        (["sweep.score=test/fd_lite0", "score.n=8", "features=lite0"], "such as val/fd_lite0"),
    ],
)
def test_a_sweep_score_that_is_not_logged_is_refused_before_training(command, tiny, monkeypatch, words, said):
    monkeypatch.setattr("diffusion.training.module.Diffusion.training_step", lambda *a: pytest.fail("a batch was run"))
    status, out, err = command("train", [*tiny, *words])
    assert status == 2, out + err
    assert said in err.splitlines()[-1]


def test_a_search_for_an_error_draws_no_samples(command, tiny):
    words = ["score.n=null", "sweep.score=gap/mse_raw", "trainer.max_steps=2", "samples.n=0", "hydra.run.dir=run"]
    status, out, err = command("train", [*tiny, *words])
    assert status == 0, out + err
    assert "no scores: 512 samples need" in out


def test_a_stored_search_runs_its_missing_trials_with_other_values(command, tiny, tmp_path):
    stored = ["hydra.sweeper.study_name=s", f"hydra.sweeper.storage=sqlite:///{tmp_path}/s.db", "samples.n=0"]
    words = [*SEARCH, *tiny, *stored, *SHORT, "+hydra.sweeper.sampler.seed=1", "optimizer.lr=interval(1e-4,1e-2)"]
    for trials in (1, 2, 2):
        status, out, err = command("train", [*words, f"hydra.sweeper.n_trials={trials}"])
        assert status == 0, out + err
    trials = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    assert trials[0].params != trials[1].params
    assert [RunRecord(tmp_path / "study" / job).state for job in ("0", "1")] == ["complete", "complete"]


def test_a_job_gets_its_previous_folder_and_never_that_of_another_job(tmp_path):
    def folder(number, *words):
        naming.job_folder.cache_clear()  # as in another process
        name = naming.job_folder(tmp_path, number, words)
        (tmp_path / name / ".hydra").mkdir(exist_ok=True)
        (tmp_path / name / ".hydra/overrides.yaml").write_text(yaml.safe_dump(list(words)))
        return name

    assert [folder(i, words) for i, words in enumerate(["schedule=linear", "schedule=cosine"])] == ["0", "1"]
    assert folder(5, "schedule=cosine", "ckpt=auto") == "1"
    assert folder(0, "schedule=sigmoid") == "2"  # a study that restarts its count at 0
    assert folder(0, "schedule=linear") == "0"
    assert folder(0, "schedule=linear", "ckpt=a.ckpt") == "3"
    naming.job_folder(tmp_path, 4, ("seed=1",))  # it has not yet written its overrides
    assert naming.job_folder(tmp_path, 4, ("seed=2",)) == "5"


def test_a_sweep_on_ray_without_ray_says_what_to_install(command, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, said = command("train", ["-m", *tiny, "hydra/launcher=ray", "seed=0,1"])
    assert (status, said.count("\n")) == (2, 1)
    assert "[ray]" in said
