"""Searches with Optuna: the objective is checked, and a study that is resumed runs only its missing trials.

    python -m diffusion.train -m hydra/sweeper=optuna 'optimizer.lr=tag(log, interval(1e-5, 1e-2))' \\
        hydra.sweeper.study_name=lr hydra.sweeper.storage=sqlite:///lr.db hydra.sweep.dir=outputs/lr \\
        sweep.score=val/fd_lite0 checkpoint.keep=1 checkpoint.finished=weights

This requires `pip install 'diffusion-experiments[sweep]'`. Without `sweep.score`, a trial minimizes the last val/mse.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, read_write

from diffusion.console import console, count
from diffusion.errors import UserError, first_line
from diffusion.metric.record import Score
from diffusion.runs.folder import jobs_in
from diffusion.runs.metrics import measures
from diffusion.runs.record import RunRecord


def prepare(config: DictConfig) -> None:
    """Check the objective of a search, and resume its study if it has a `study_name` in a `storage`.

    A failed trial does not end it, unless `max_failure_rate` is set.
    """
    check_search(config)
    sweeper = config.hydra.sweeper
    chosen = any(word.startswith("hydra.sweeper.max_failure_rate=") for word in config.hydra.overrides.hydra)
    with read_write(config):
        if "max_failure_rate" in sweeper and not chosen:
            sweeper.max_failure_rate = 1.0  # Optuna's default, 0, would end it at a failed trial
        if sweeper.get("study_name") and sweeper.get("storage"):
            resume(config)


def check_search(config: DictConfig) -> None:
    """Raise UserError for a search in the wrong direction, or one that compares errors of different tasks."""
    name, direction = config.sweep.score, config.hydra.sweeper.get("direction")
    error = "mse" in name or "loss" in name  # of the network, not a score of samples
    larger = False if error else Score(name.partition("/")[2], 0.0, None).higher_is_better
    better, fix = ("higher", "maximize") if larger else ("lower", "minimize")
    if larger is not None and direction_name(direction) not in (fix, "none"):
        raise UserError(f"sweep.score={name}: {better} is better; set hydra.sweeper.direction={fix}")
    words = OverridesParser.create().parse_overrides([*config.hydra.overrides.task])
    searched = [str(word.package or word.key_or_group) for word in words if word.is_sweep_override()]
    searched += map(str, config.hydra.sweeper.get("params") or {})
    different = [key for key in searched if measures(key) or key == "experiment"]
    if error and different:
        raise UserError(
            f"sweep.score={name}: errors of trials that differ in {', '.join(different)} measure different "
            "tasks, so the lowest is not the best; optimize a score of samples, such as sweep.score=val/fd_lite0"
        )


def direction_name(direction: Any) -> str:
    """The name of a direction, which is an enumeration of Hydra's plugin or of Optuna, or a word."""
    return getattr(direction, "name", str(direction)).lower()


def resume(config: DictConfig) -> None:
    """Count the trials that a study has already completed, in any process, towards `hydra.sweeper.n_trials`.

    Otherwise, Hydra's plugin would run `n_trials` more, and a seeded sampler would repeat the first ones. Trials that
    were running when their process ended are run again first, with the same values: their jobs then resume in their
    folders.
    """
    import optuna

    sweeper, study, states = config.hydra.sweeper, study_of(config), optuna.trial.TrialState
    trials, wanted, folder = study.trials, sweeper.n_trials, Path(config.hydra.sweep.dir)
    if not trials:
        return
    complete = sum(trial.state == states.COMPLETE for trial in trials)
    sweeper.n_trials = max(0, wanted - complete)
    if sweeper.sampler.get("seed") is not None:
        sweeper.sampler.seed += len(trials)
    stopped = [trial for trial in trials if trial.state == states.RUNNING and has_ended(trial.params, folder)]
    for trial in stopped[: sweeper.n_trials]:
        study.tell(trial.number, state=states.FAIL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.enqueue_trial(trial.params)
    again = f"; running {count(len(stopped), 'stopped trial')} again" if stopped else ""
    console.print(f"study {sweeper.study_name}: {complete} of {count(wanted, 'trial')} complete{again}")


def study_of(config: DictConfig) -> Any:
    """The Optuna study of a search, created if it is new. Raises UserError if it optimizes something else."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    sweeper, score, direction = config.hydra.sweeper, config.sweep.score, direction_name(config.hydra.sweeper.direction)
    name, storage = sweeper.study_name, sweeper.storage
    try:
        study = optuna.create_study(study_name=name, storage=storage, direction=direction, load_if_exists=True)
    except SQLAlchemyError as error:
        raise UserError(f"hydra.sweeper.storage={storage}: it cannot be opened ({first_line(error)})") from error
    before = study.user_attrs.get("score", score), direction_name(study.direction)
    if before != (score, direction):
        raise UserError(
            f"hydra.sweeper.study_name={name}: this study has sweep.score={before[0]} and "
            f"hydra.sweeper.direction={before[1]}; resume it with them, or begin another study for {score}"
        )
    study.set_user_attr("score", score)
    return study


def has_ended(params: Mapping[str, Any], sweep: Path) -> bool:
    """Whether the folder `sweep` contains a job with these values whose run has ended."""
    words = {f"{key}={value}" for key, value in params.items()}
    folders = [folder for folder, overrides in jobs_in(sweep) if words and words <= {*overrides}]
    return any(RunRecord(folder).state not in ("not started", "running") for folder in folders)
