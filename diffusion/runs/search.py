"""The searches of `hydra/sweeper=search`: Optuna chooses the settings of a sweep's jobs by the scores of earlier ones.

Each job is a trial. Any number of processes may run the same command with the same folder. Each takes one batch of
trials after the other, and their locks, until there are `n_trials` in all. If it is gone, the others resume its trials.
"""

import contextlib
import fcntl
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.core.plugins import Plugins
from optuna import distributions
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from diffusion.base.console import console
from diffusion.config.build import make
from diffusion.config.schema import Count
from diffusion.errors import UserError, first_line, shown
from diffusion.runs.folder import STUDY, measures
from diffusion.runs.processes import TRIAL
from diffusion.runs.record import RunRecord


@dataclass
class Search:
    """A search. conf/hydra/sweeper/search.yaml explains its settings; the last three arguments come from Hydra."""

    sampler: dict[str, Any]
    pruner: optuna.pruners.BasePruner
    direction: Literal["minimize", "maximize"] | list[Literal["minimize", "maximize"]]
    n_trials: Count
    n_jobs: Count
    params: dict[str, Any] | None
    hydra_context: Any
    task_function: Any
    config: Any

    def run(self, arguments: list[str]) -> None:
        """Run the trials that are missing. Raises UserError for a wrong setting, or if no trial has a result."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.folder, loader = Path(self.config.hydra.sweep.dir).absolute(), self.hydra_context.config_loader
        words = [*(f"{key}={value}" for key, value in (self.params or {}).items()), *arguments]
        given = {word.get_key_element(): word for word in OverridesParser.create(loader).parse_overrides(words)}
        self.fixed = [str(word.input_line) for word in given.values() if not word.is_sweep_override()]
        try:
            self.space = {key: space_of(word) for key, word in given.items() if word.is_sweep_override()}
            for key, space in self.space.items():
                for value in getattr(space, "choices", ()):  # raises if it is no choice
                    loader.load_sweep_config(self.config, [*self.fixed, f"{key}={value}"])
            self.study = self.open_study()
        except (ValueError, IndexError) as error:
            raise UserError(f"{' '.join(words)}: {first_line(error)}; change these, or hydra.sweep.dir") from error
        self.n_trials += len(self.study.get_trials(states=[TrialState.FAIL]))  # those of earlier calls do not count
        launcher = Plugins.instance().instantiate_launcher(self.hydra_context, self.task_function, self.config)
        with (self.folder / ".trials").open("ab") as self.locks:
            while batch := self.next_batch():
                jobs = launcher.launch([self.words(trial) for trial in batch], initial_job_idx=batch[0].number)
                for trial, job in zip(batch, jobs, strict=True):
                    self.tell(trial, job._return_value)
        if not self.study.best_trials:
            raise UserError(f"{self.folder}: no trial has a result; `diffusion status` lists the reasons")

    def open_study(self) -> optuna.Study:
        """The study, created if it is new. Raises UserError or ValueError if it does not suit the settings."""
        score, direction = self.config.sweep.score, self.direction
        self.scores = scores = [score] if isinstance(score, str) else [*score]
        goals = [direction] * len(scores) if isinstance(direction, str) else direction
        if not self.space:
            raise UserError("hydra/sweeper=search: nothing to search; give a setting several values, as ema=none,warm")
        if len(goals) != len(scores):
            raise ValueError(f"hydra.sweeper.direction={shown(goals)} for sweep.score={shown(scores)}")
        tasks = ", ".join(key for key in self.space if measures(key.rpartition("@")[2]) or key == "experiment")
        if tasks and any("mse" in score or "loss" in score for score in scores):
            raise UserError(f"sweep.score={shown(score)}: not comparable if {tasks} differs; use a score of samples")
        study = optuna.create_study(**place_of(self.folder), directions=goals, pruner=self.pruner, load_if_exists=True)
        if (found := [each.name.lower() for each in study.directions]) != goals:
            raise ValueError(f"the study's hydra.sweeper.direction is {shown(found)}")
        for trial in study.trials:
            for key in trial.distributions.keys() & self.space.keys():
                distributions.check_distribution_compatibility(trial.distributions[key], self.space[key])
        study.set_metric_names(scores)
        return study

    def next_batch(self) -> list[FrozenTrial]:
        """The next trials to run: new ones, and those that a process has left behind."""
        fcntl.lockf(self.locks, fcntl.LOCK_EX, 1, 0)  # one process after the other
        begun = [trial for trial in self.study.trials if trial.state != TrialState.WAITING]
        for _ in range(min(self.n_jobs, self.n_trials - len(begun))):
            self.add_trial()
        batch = []
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):
            with contextlib.suppress(BlockingIOError):  # of another process, which runs it
                fcntl.lockf(self.locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + trial.number)
                batch.append(trial)
        fcntl.lockf(self.locks, fcntl.LOCK_UN, 1, 0)
        return [trial for trial in batch if "folder" in trial.user_attrs]  # else, its process was killed as it drew it

    def add_trial(self) -> None:
        """Draw a trial by a sampler with a new seed. Its folder is its own, or that of an equal one that has ended."""
        before, seed = self.study.trials, self.sampler.get("seed")
        more = {} if seed is None else {"seed": seed + len(before)}
        self.study.sampler = make(self.sampler, "hydra.sweeper.sampler", optuna.samplers.BaseSampler, **more)
        trial = self.study.ask(self.space)
        same = [each for each in before if each.params == trial.params and each.state.name in ("COMPLETE", "PRUNED")]
        trial.set_user_attr("folder", f"trial-{min(each.number for each in (*same, trial))}")

    def words(self, trial: FrozenTrial) -> list[str]:
        values = [f"{key}={value}" for key, value in trial.params.items()]
        place = f"hydra.sweep.subdir={trial.user_attrs['folder']}"
        return [*self.fixed, *values, place, f"+hydra.job.env_set.{TRIAL}={trial.number}"]

    def tell(self, trial: FrozenTrial, result: Any) -> None:
        """Tell Optuna how the job of a trial has ended, and print it. Raises an error that all jobs would have."""
        pruned = RunRecord(self.folder / trial.user_attrs["folder"]).content.get("state") == "pruned"
        values = None if pruned or isinstance(result, Exception) else result
        state = TrialState.PRUNED if pruned else TrialState.FAIL if values is None else TrialState.COMPLETE
        try:
            self.study.tell(trial.number, values, state)
        except RuntimeError:  # of Study.stop: the sampler has no more values
            self.n_trials = 0
        found = {**trial.params, **dict(zip(self.scores, self.study.trials[trial.number].values or (), strict=False))}
        console.print(f"trial {trial.number} {state.name.lower()}: {', '.join(f'{k}={v}' for k, v in found.items())}")
        if isinstance(result, UserError) and str(result).startswith("sweep.score="):
            raise result


def place_of(folder: Path) -> dict[str, Any]:
    """The storage and the name of the study in the folder of a sweep, as Optuna's arguments."""
    file = str(folder / STUDY)
    return {"storage": JournalStorage(JournalFileBackend(file, JournalFileOpenLock(file))), "study_name": "search"}


def space_of(word: Override) -> distributions.BaseDistribution:
    """The values of a setting, as Optuna's distribution. Raises ValueError or IndexError if there are none."""
    value: Any = word.value()
    if word.is_choice_sweep():
        return distributions.CategoricalDistribution(list[Any](word.sweep_iterator(Transformer.encode)))
    every = sorted(value.range()) if word.is_range_sweep() else [value.start, value.end]
    step = {"step": abs(value.step)} if word.is_range_sweep() else {}
    kind: Any = distributions.IntDistribution if {*map(type, every)} == {int} else distributions.FloatDistribution
    return kind(every[0], every[-1], log="log" in value.tags, **step)
