"""Searches: what Optuna stores, jobs that are pruned, several scores, and studies that go on."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from diffusion.runs.folder import Run, read_metrics
from diffusion.runs.record import RunRecord

SEARCH = ["-m", "hydra/sweeper=search", "hydra.sweep.dir=study", "samples.n=0", "trainer.max_steps=1"]
SPACE = "optimizer.lr=tag(log,interval(1e-4,1e-2))"


def storage_of(folder: Path) -> Any:
    """The storage of the study in the folder of a sweep."""
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "study.journal")))


def trials_of(folder: Path) -> list[Any]:
    """The trials of a study, read by Optuna itself."""
    return optuna.load_study(study_name="search", storage=storage_of(folder)).trials


def test_optuna_reads_back_what_was_run(ran, tiny, tmp_path):
    """A range does not contain its end, as elsewhere in Hydra; a key of `params` in a yaml is an override."""
    words = [SPACE, "data.batch_size=range(2,8,2)", "ema=choice(none,warm)", "hydra.sweeper.n_trials=3"]
    ran("train", [*SEARCH, *tiny, *words, "+hydra.sweeper.params.seed=5"])
    for trial in trials_of(tmp_path / "study"):
        run = Run(tmp_path / "study" / trial.user_attrs["folder"])
        assert run.settings["optimizer"]["lr"] == trial.params["optimizer.lr"]
        assert run.settings["data"]["batch_size"] == trial.params["data.batch_size"] in (2, 4, 6)
        assert (run.settings["ema"] is None) is (trial.params["ema"] == "none")
        assert run.settings["seed"] == 5
        assert run.info["result"] == trial.value == run.metrics["val/mse"].value[-1]
        assert {f"{key}={value}" for key, value in trial.params.items()} <= {*run.overrides}
    assert trial.number == 2
    distributions = trial.distributions
    assert (distributions["optimizer.lr"].log, distributions["data.batch_size"].high) == (True, 6)


@pytest.mark.whole_report
@pytest.mark.usefixtures("undrawn")
def test_a_job_that_falls_behind_is_pruned_and_shown_as_such(ran, tiny, tmp_path):
    """A learning rate of 0 learns nothing; the third trial has it. It draws no samples."""
    words = ["optimizer.lr=choice(0.0,3e-3)", "trainer.max_steps=6", "trainer.val_check_interval=2", "samples.n=2"]
    words += ["least_interval=1", "hydra.sweeper.pruner.n_startup_trials=2", "hydra.sweeper.n_trials=3"]
    (tmp_path / "study").mkdir()
    (tmp_path / "study/multirun.yaml").write_text("# diffusion.runs")
    study = optuna.create_study(storage=storage_of(tmp_path / "study"), study_name="search")
    for lr in (3e-3, 3e-3, 0.0):
        study.enqueue_trial({"optimizer.lr": lr})
    ran("train", [*SEARCH, *tiny, *words])
    first, same, pruned = trials_of(tmp_path / "study")
    assert first.values == same.values  # not trained again
    assert first.user_attrs == same.user_attrs
    assert pruned.state.name == "PRUNED"
    run = Run(tmp_path / "study" / pruned.user_attrs["folder"])
    assert (run.state, run.info["steps"]) == ("pruned", 2)
    assert "at step 2 of 6" in run.info["reason"]
    assert pruned.intermediate_values == {2: run.metrics["val/mse"].value[-1]}
    assert not (run.folder / "samples/final.png").exists()
    assert "ended by its search" in (run.folder / "report.html").read_text()
    assert "left out, because a search has ended them: study/" in (tmp_path / "study/compare.md").read_text()
    assert "1 pruned" in ran("status", ["study"])


def test_a_trial_has_two_scores(ran, tiny, tmp_path):
    ran("train", [*SEARCH, *tiny, SPACE, "sweep.score=[val/mse,seconds]", "hydra.sweeper.n_trials=1"])
    (trial,) = trials_of(tmp_path / "study")
    run = Run(tmp_path / "study" / trial.user_attrs["folder"])
    assert trial.values == [run.metrics["val/mse"].value[-1], run.info["seconds_of"]["training"]]


def test_a_study_that_is_called_again_goes_on(ran, tiny, tmp_path, started):
    """It draws what it would have drawn without an end, and trains nothing again."""
    words = [*SEARCH, *tiny, "hydra/sweeper/sampler=random", SPACE, "hydra.sweeper.n_jobs=2"]
    for n, *more in ((3, "hydra.sweep.dir=once"), (1,), (3,), (3,)):
        ran("train", [*words, f"hydra.sweeper.n_trials={n}", *more])
    assert started == [*("trial-0", "trial-1", "trial-2"), "trial-0", *("trial-1", "trial-2")]
    once, again = trials_of(tmp_path / "once"), trials_of(tmp_path / "study")
    assert [trial.params for trial in once] == [trial.params for trial in again]
    assert [trial.values for trial in once] == [trial.values for trial in again]


def test_a_failed_trial_does_not_end_a_search(command, tiny, tmp_path, started):
    """This seed draws the negative learning rate first."""
    words = ["hydra/sweeper/sampler=grid", "hydra.sweeper.sampler.seed=0", "optimizer.lr=choice(1e-3,-1.0)"]
    _, out, err = command("train", [*SEARCH, *tiny, *words])
    states = [RunRecord(tmp_path / f"study/trial-{i}").state for i in range(2)]
    assert sorted(states) == ["complete", "failed"], out + err
    assert not (tmp_path / "study/trial-2").exists()  # there is no third value


def test_a_sample_score_can_compare_trials_of_different_tasks(ran, tiny, tmp_path):
    words = ["score.n=8", "score.baselines=[]", "features=lite0", "trainer.max_steps=2", "hydra.sweeper.n_trials=2"]
    words += ["schedule=choice(cosine,linear)", "optimizer.lr=interval(1e-4,1e-2)", "sweep.score=val/kid_lite0"]
    ran("train", [*SEARCH, *tiny, *words])
    trials = [tmp_path / f"study/trial-{i}" for i in range(2)]
    kids = [read_metrics(trial / "metrics.csv")["val/kid_lite0"].value[-1] for trial in trials]
    assert kids == [json.loads((trial / "run.json").read_text())["result"] for trial in trials]
    assert len({*kids}) > 1
    assert kids == [trial.value for trial in trials_of(tmp_path / "study")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to search"),
        (["optimizer.lr=interval(2,1)"], "optimizer.lr=interval(2,1)"),
        ([SPACE, "hydra.sweeper.sampler._target_=optuna.samplers.TPESamplr"], "TPESampler"),
        ([SPACE, "hydra.sweeper.pruner._target_=optuna.pruners.Medan"], "MedianPruner"),
        ([SPACE, "+hydra.sweeper.sampler.sed=1"], "sed"),
        ([SPACE, "hydra.sweeper.n_trials=many"], "hydra.sweeper.n_trials=many"),
        ([SPACE, "hydra.sweeper.direction=[minimize,maximize]"], "sweep.score=[val/mse]"),
        ([SPACE, "model=choice(unet_tiny,unet_tony)"], "unet_tony"),
        ([SPACE, "sweep.score=[seconds,val/fid]"], "sweep.score=val/fid: this run does not log it"),
        (["schedule=choice(linear,cosine)"], "sweep.score=val/mse: not comparable if schedule differs"),
        (["experiment=edm,flow"], "sweep.score=val/mse: not comparable if experiment differs"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_training(refused, tiny, monkeypatch, words, said):
    monkeypatch.setattr("diffusion.training.module.Diffusion.training_step", lambda *a: pytest.fail("a batch was run"))
    assert said in refused("train", [*SEARCH, *tiny, *words])


def test_a_study_of_another_search_is_refused(ran, refused, tiny, started):
    words = ["ema=choice(none,warm)", "hydra.sweeper.n_trials=1"]
    ran("train", [*SEARCH, *tiny, *words])
    for changed, said in (("ema=choice(none,power)", "dynamic"), ("hydra.sweeper.direction=maximize", "[minimize]")):
        assert said in refused("train", [*SEARCH, *tiny, *words, changed])
