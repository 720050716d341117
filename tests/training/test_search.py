"""The metrics that a search such as Optuna can optimize, and the values that its jobs return."""

import json
import time

import optuna
import pytest
from omegaconf import OmegaConf

from diffusion.runs.jobs import result_of
from diffusion.runs.metrics import read_metrics
from diffusion.runs.naming import job_folder
from diffusion.runs.optuna import resume
from diffusion.runs.record import RunRecord, claim

SEARCH = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "hydra.sweeper.n_jobs=1", "hydra.sweep.dir=study"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["schedule=choice(linear,cosine)"], "trials that differ in schedule measure different tasks"),
        (["data.resolution=choice(8,16)"], "differ in data.resolution"),
        (["trainer.limit_val_batches=choice(1,2)"], "differ in trainer.limit_val_batches"),
        (["trainer.limit_val_batches=1", "data.eval_batch_size=choice(4,8)"], "differ in data.eval_batch_size"),
        (["experiment=edm,flow"], "differ in experiment"),
        (["optimizer.lr=interval(1e-5,1e-2)", "sweep.score=val/coverage_lite0"], "direction=maximize"),
        (["optimizer.lr=interval(1e-5,1e-2)", "hydra.sweeper.direction=maximize"], "direction=minimize"),
    ],
)
def test_searches_with_incomparable_trials_or_a_wrong_direction_are_refused(command, tiny, tmp_path, words, said):
    status, out, err = command("train", [*SEARCH, *tiny, *words])
    assert status == 2, out + err
    assert said in err
    assert err.startswith("error: sweep.score=val/")
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


def test_a_search_over_predictions_warns_about_val_mse(command, tiny):
    words = ["samples.n=0", "trainer.max_steps=1", "prediction=choice(v)"]
    status, out, err = command("train", [*SEARCH, *tiny, *words])
    assert status == 0, out + err
    assert "warning: sweep.score=val/mse weights all times equally, regardless of prediction:" in " ".join(out.split())


def test_a_grid_sweep_may_vary_the_schedule(command, tiny):
    words = [*tiny, "samples.n=0", "trainer.max_steps=1", "schedule=linear,cosine", "hydra.sweep.dir=grid"]
    status, out, err = command("train", ["-m", *words])
    assert status == 0, out + err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep.score=val/fid", "score.n=8", "features=lite0"], "such as val/fd_lite0"),
        (["sweep.score=val/fd_lite0"], "no scores (score.n=0)"),
        (["sweep.score=test/fd_lite0", "score.n=8", "features=lite0"], "scores as val/…"),
    ],
)
def test_a_sweep_score_that_is_not_logged_is_refused_before_training(command, tiny, monkeypatch, words, said):
    monkeypatch.setattr("diffusion.training.module.Diffusion.training_step", lambda *a: pytest.fail("a batch was run"))
    status, out, err = command("train", [*tiny, *words])
    assert status == 2, out + err
    assert said in err.splitlines()[-1]


def states_after_restart(sweep, sampler="TPESampler", left=1, **params):
    """The states of a study's trials when its search starts again; one trial with these values was running before."""
    storage, running = f"sqlite:///{sweep / str(time.monotonic_ns())}.db", optuna.trial.TrialState.RUNNING
    space = {name: optuna.distributions.UniformDistribution(0, 1) for name in params}
    trial = optuna.trial.create_trial(state=running, params=params, distributions=space)
    optuna.create_study(study_name="s", storage=storage).add_trial(trial)
    sampler = {"_target_": f"optuna.samplers.{sampler}"}
    sweeper = {"study_name": "s", "storage": storage, "n_trials": left, "sampler": sampler, "direction": "minimize"}
    hydra = {"sweeper": sweeper, "sweep": {"dir": str(sweep)}}
    config = OmegaConf.create({"hydra": hydra, "sweep": {"score": "val/mse"}})
    resume(config)
    return [trial.state.name for trial in optuna.load_study(study_name="s", storage=storage).trials]


def test_a_search_for_an_error_draws_no_samples(command, tiny):
    words = ["score.n=null", "sweep.score=gap/mse_raw", "trainer.max_steps=2", "samples.n=0", "hydra.run.dir=run"]
    status, out, err = command("train", [*tiny, *words])
    assert status == 0, out + err
    assert "no scores: 512 samples need" in out


@pytest.mark.filterwarnings("error:enqueue_trial")
def test_a_search_repeats_a_trial_only_if_its_job_has_ended(tmp_path):
    for name in ("0.4", "0.5"):
        (tmp_path / job_folder(tmp_path, 0, [f"lr={name}", "seed=1"])).mkdir(exist_ok=True)
    RunRecord(tmp_path / "0", {"state": "interrupted"})._replace()
    assert states_after_restart(tmp_path) == ["RUNNING"]  # it has no values yet
    assert states_after_restart(tmp_path, lr=0.5) == ["RUNNING"]  # its job has not begun
    with claim(tmp_path / "1").lock:
        assert states_after_restart(tmp_path, lr=0.5) == ["RUNNING"]
    RunRecord(tmp_path / "1", {"state": "interrupted"})._replace()
    assert states_after_restart(tmp_path, lr=0.5) == ["FAIL", "WAITING"]
    assert states_after_restart(tmp_path, lr=0.5, left=0) == ["RUNNING"]
    assert states_after_restart(tmp_path, lr=0.5, sampler="GridSampler") == ["RUNNING"]


def test_a_study_keeps_its_objective(command, tiny, tmp_path):
    stored = ["hydra.sweeper.study_name=s", f"hydra.sweeper.storage=sqlite:///{tmp_path}/s.db", "samples.n=0"]
    words = [*SEARCH, *tiny, *stored, "trainer.max_steps=1", "optimizer.lr=interval(1e-4,1e-2)"]
    assert command("train", words)[0] == 0
    status, out, err = command("train", [*words, "hydra.sweeper.n_trials=2", "sweep.score=gap/mse"])
    assert status == 2, out + err
    assert "this study has sweep.score=val/mse and hydra.sweeper.direction=minimize;" in err
    status, out, err = command("train", [*words, "hydra.sweeper.n_trials=2"])
    assert status == 0, out + err
    status, out, err = command("train", [*words, "hydra.sweeper.storage=sqlite:////nowhere/s.db"])
    assert (status, len(err.splitlines())) == (2, 1), out + err
    assert "hydra.sweeper.storage=sqlite:////nowhere/s.db: it cannot be opened" in err
    trials = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]


def test_a_result_that_is_not_a_number_is_none(tmp_path):
    assert result_of(RunRecord(tmp_path, {"result": float("nan")})) is None
    assert result_of(RunRecord(tmp_path, {"result": 0.5})) == 0.5
    assert result_of(RunRecord(tmp_path, {})) is None
