"""Hydra callbacks for searches: check the objective, and resume an Optuna study with only its missing trials.

    python -m diffusion.train -m hydra/sweeper=optuna 'optimizer.lr=tag(log, interval(1e-5, 1e-2))' \\
        hydra.sweeper.study_name=lr hydra.sweeper.storage=sqlite:///lr.db hydra.sweep.dir=outputs/lr \\
        sweep.score=val/fd_lite0 checkpoint.keep=1 checkpoint.finished=weights

This requires `pip install 'diffusion-experiments[sweep]'`. Without `sweep.score`, a trial minimizes the last val/mse.
"""

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from diffusion.console import console, count
from diffusion.errors import UserError, exit_status, first_line
from diffusion.metric.record import Score
from diffusion.runs.metrics import measures
from diffusion.runs.naming import jobs_in
from diffusion.runs.record import RunRecord

ERRORS = ("mse", "loss")  # substrings of the names of denoising errors
WEIGHED = ("prediction", "objective")  # settings that determine at which times a network is most accurate
ENDED = ("complete", "interrupted", "failed", "died")  # states of a run
GRID = "GridSampler"  # it repeats a stopped trial by itself, and would count a repeated one as another point


class CheckSearch(Callback):
    """Check, before a search, that its direction suits the objective and that trials can be compared by it.

    A failed trial, such as one that diverges, does not end the search, unless `hydra.sweeper.max_failure_rate` is set.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with one line and status 2 on failure. (Hydra turns exceptions of callbacks into warnings.)"""
        if config.hydra.runtime.choices.get("hydra/sweeper") == "basic":
            return  # a grid, which compares nothing
        if status := exit_status(partial(check_search, config), "check the folder's permissions"):
            sys.exit(status)
        chosen = any(word.startswith("hydra.sweeper.max_failure_rate=") for word in config.hydra.overrides.hydra)
        if "max_failure_rate" in config.hydra.sweeper and not chosen:
            with read_write(config):
                config.hydra.sweeper.max_failure_rate = 1.0  # Optuna's default, 0, would end it at a failed trial


def check_search(config: DictConfig) -> None:
    """Raise UserError for a search in the wrong direction, or one that compares errors of different tasks."""
    name, direction = config.sweep.score, config.hydra.sweeper.get("direction")
    error = any(word in name for word in ERRORS)
    larger = False if error else Score(name.partition("/")[2], 0.0, None).higher_is_better
    wanted = {"minimize": True, "maximize": False}.get(direction_name(direction))
    if larger is not None and wanted == larger:
        better, fix = ("higher", "maximize") if larger else ("lower", "minimize")
        raise UserError(f"sweep.score={name}: {better} is better; set hydra.sweeper.direction={fix}")
    if not error:
        return
    swept, limited = list(searched(config)), config.trainer.get("limit_val_batches") is not None
    if different := [key for key in swept if measures(key, limited) or key == "experiment"]:
        raise UserError(
            f"sweep.score={name}: errors of trials that differ in {', '.join(different)} measure different "
            "tasks, so the lowest is not the best; optimize a score of samples, such as sweep.score=val/fd_lite0"
        )
    if weighed := [key for key in swept if key.split(".")[0] in WEIGHED]:
        console.print(
            f"warning: sweep.score={name} weights all times equally, regardless of {', '.join(weighed)}: a lower error "
            "need not mean better samples; a score of samples, such as sweep.score=val/fd_lite0, compares them",
            style="yellow",
        )


def direction_name(direction: Any) -> str:
    """The name of a direction, which is an enumeration of Hydra's plugin or of Optuna, or a word."""
    return getattr(direction, "name", str(direction)).lower()


def searched(config: DictConfig) -> Iterator[str]:
    """Yield the settings in which the trials of a search differ."""
    for override in OverridesParser.create().parse_overrides([*config.hydra.overrides.task]):
        if override.is_sweep_override():
            yield str(override.package or override.key_or_group)
    yield from map(str, config.hydra.sweeper.get("params") or {})


class ResumeStudy(Callback):
    """Count the trials that a study has already completed, in any process, towards `hydra.sweeper.n_trials`.

    Otherwise, Hydra's plugin would run `n_trials` more, and a seeded sampler would repeat the first ones. Trials that
    were running when their process ended are run again first, with the same values: their jobs then resume in their
    folders. Applies to a study with a `study_name` in a `storage`. A study keeps its `sweep.score` and direction.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before the sweeper is created. Exits with one line and status 2 on failure, like `CheckSearch`."""
        sweeper = config.hydra.sweeper
        if "study_name" not in sweeper or not (sweeper.study_name and sweeper.storage):
            return
        if status := exit_status(partial(self.resume, config), "check hydra.sweeper.storage"):
            sys.exit(status)

    def resume(self, config: DictConfig) -> None:
        """Adapt the number of trials, and repeat the stopped ones."""
        import optuna

        sweeper, study = config.hydra.sweeper, study_of(config)
        trials, states, wanted, again = study.trials, optuna.trial.TrialState, sweeper.n_trials, []
        if not trials:
            return
        complete = sum(trial.state == states.COMPLETE for trial in trials)
        with read_write(config):
            sweeper.n_trials = max(0, wanted - complete)
            if sweeper.sampler.get("seed") is not None:
                sweeper.sampler.seed += len(trials)
        running = [trial for trial in trials if trial.state == states.RUNNING]
        if running and not sweeper.sampler._target_.endswith(GRID):
            stopped = [trial for trial in running if has_ended(trial.params, Path(config.hydra.sweep.dir))]
            again = stopped[: sweeper.n_trials]
        for trial in again:
            study.tell(trial.number, state=states.FAIL)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.enqueue_trial(trial.params)
        console.print(
            f"study {sweeper.study_name}: {complete} of {count(wanted, 'trial')} complete"
            + (f"; running {count(len(again), 'stopped trial')} again" if again else "")
        )


def study_of(config: DictConfig) -> Any:
    """The Optuna study of a search, created if it is new. Raises UserError if it optimizes something else."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("alembic").setLevel(logging.WARNING)  # the storage's library lists its plugins
    sweeper, score, direction = config.hydra.sweeper, config.sweep.score, direction_name(config.hydra.sweeper.direction)
    name, storage = sweeper.study_name, sweeper.storage
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        study = optuna.create_study(study_name=name, storage=storage, direction=direction)
    except SQLAlchemyError as error:
        raise UserError(f"hydra.sweeper.storage={storage}: it cannot be opened ({first_line(error)})") from error
    used = any(trial.state.name in ("COMPLETE", "RUNNING") for trial in study.trials)
    before = study.user_attrs.get("score", score) if used else score, direction_name(study.direction)
    if study.user_attrs.get("score") != score and before[0] == score:
        study.set_user_attr("score", score)
    if before != (score, direction):
        raise UserError(
            f"hydra.sweeper.study_name={name}: this study has sweep.score={before[0]} and "
            f"hydra.sweeper.direction={before[1]}; resume it with them, or begin another study for {score}"
        )
    return study


def has_ended(params: Mapping[str, Any], sweep: Path) -> bool:
    """Whether the folder `sweep` contains a job with these values whose run has ended: complete, stopped or failed."""
    words = {f"{key}={value}" for key, value in params.items()}
    folders = [folder for folder, overrides in jobs_in(sweep) if words and words <= {*overrides}]
    return any(RunRecord(folder).state in ENDED for folder in folders)
