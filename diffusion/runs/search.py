"""The searches of `hydra/sweeper=search`: Optuna chooses the settings of a sweep's jobs by the scores of earlier ones.

Each job is a trial of a study. Any number of processes may run the same command with the same folder: each takes one
batch of trials after the other until there are `n_trials` in all, and holds a lock for each of its trials. If a process
is gone, another one, or a later call, goes on with its trials in their folders. Trials that failed in earlier calls do
not count. What is drawn for a trial depends only on the seed, its number and the results before it.
"""

import fcntl
import itertools
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from optuna import distributions
from optuna.storages import JournalStorage, journal
from optuna.trial import TrialState

from diffusion.config.build import make
from diffusion.config.schema import Count
from diffusion.console import console
from diffusion.errors import UserError, first_line, shown
from diffusion.files import replace
from diffusion.launch import TRIAL
from diffusion.runs.folder import RESULTS, SWEEP, measures
from diffusion.runs.naming import first_new, job_folder
from diffusion.runs.record import RunRecord

Direction = Literal["minimize", "maximize"]


@dataclass
class Search:
    """A search. conf/hydra/sweeper/search.yaml explains its settings; the last three arguments come from Hydra."""

    sampler: dict[str, Any]
    pruner: optuna.pruners.BasePruner
    direction: Direction | list[Direction]
    n_trials: Count
    n_jobs: Count
    storage: str | None
    study_name: str | None
    params: dict[str, Any] | None
    hydra_context: Any
    task_function: Any
    config: Any

    def run(self, arguments: list[str]) -> None:
        """Run the trials that are missing. Raises UserError for a wrong setting, or if no trial has a result."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.folder, self.loader = Path(self.config.hydra.sweep.dir).absolute(), self.hydra_context.config_loader
        words = [*(f"{key}={value}" for key, value in (self.params or {}).items()), *arguments]
        given = {word.get_key_element(): word for word in OverridesParser.create(self.loader).parse_overrides(words)}
        self.fixed = [str(word.input_line) for word in given.values() if not word.is_sweep_override()]
        self.space = {key: space_of(word) for key, word in given.items() if word.is_sweep_override()}
        self.check([str(given[key].package or given[key].key_or_group) for key in self.space])
        self.study = self.open_study()
        self.failed = {trial.number for trial in self.study.trials if trial.state == TrialState.FAIL}
        launcher = Plugins.instance().instantiate_launcher(self.hydra_context, self.task_function, self.config)
        with (self.folder / ".trials").open("ab") as self.locks:
            while batch := self.next_batch():
                jobs = launcher.launch([*batch.values()], initial_job_idx=min(batch))
                for number, job in zip(batch, jobs, strict=True):
                    self.tell(number, job)
                self.write_results()
        if not self.study.best_trials:
            raise UserError(f"{self.folder}: no trial has a result; `diffusion status` lists the reasons")

    def check(self, searched: list[str]) -> None:
        """Check what is searched before anything is run."""
        scores, direction = self.config.sweep.score, self.direction
        self.scores = [scores] if isinstance(scores, str) else [*scores]
        self.directions = [direction] * len(self.scores) if isinstance(direction, str) else direction
        if not searched:
            example = "'optimizer.lr=tag(log,interval(1e-5,1e-3))'"
            raise UserError(f"hydra/sweeper=search: nothing to search; give a setting several values: {example}")
        if len(self.directions) != len(self.scores):
            expected = f"one for all scores, or {len(self.scores)}: sweep.score={shown(self.scores)}"
            raise UserError(f"hydra.sweeper.direction={shown(self.directions)}: expected {expected}")
        different = ", ".join(key for key in searched if measures(key) or key == "experiment")
        if different and (errors := [score for score in self.scores if "mse" in score or "loss" in score]):
            raise UserError(
                f"sweep.score={errors[0]}: errors of trials that differ in {different} measure different tasks; "
                "optimize a score of samples, such as sweep.score=val/fd_lite0"
            )
        for key, space in self.space.items():
            for value in getattr(space, "choices", ()):
                self.loader.load_sweep_config(self.config, [*self.fixed, f"{key}={value}"])  # raises if it is no choice

    def open_study(self) -> optuna.Study:
        """The study, which is created if it does not exist. Raises UserError if it is of another search."""
        try:
            place = place_of(self.storage, self.study_name, self.folder)
            study = optuna.create_study(**place, pruner=self.pruner, directions=self.directions, load_if_exists=True)
            if (found := [each.name.lower() for each in study.directions]) != self.directions:
                raise ValueError(f"its direction is {', '.join(found)}")
            for trial in study.trials:
                for key in trial.distributions.keys() & self.space.keys():
                    distributions.check_distribution_compatibility(trial.distributions[key], self.space[key])
        except Exception as error:  # of one of many databases
            where = self.storage or self.folder
            raise UserError(f"{where}: not the study of this search ({first_line(error)}); choose another") from error
        return study

    def next_batch(self) -> dict[int, list[str]]:
        """The numbers and the words of the next jobs: first those that a process has left behind, then new ones."""
        while True:
            fcntl.lockf(self.locks, fcntl.LOCK_EX, 1, 0)  # one process after the other
            trials = self.study.get_trials(deepcopy=False)
            counted = [t for t in trials if t.state != TrialState.WAITING and t.number not in self.failed]
            left = [t for t in trials if t.state == TrialState.RUNNING and self.folder_of(t).is_dir() and self.takes(t)]
            batch: list[Any] = [t for t in left if RunRecord(self.folder_of(t)).state != "running"]
            for _ in range(min(self.n_jobs - len(batch), self.n_trials - len(counted))):
                batch.append(self.new_trial())
            fcntl.lockf(self.locks, fcntl.LOCK_UN, 1, 0)
            if batch or not left:
                return {trial.number: self.words(trial) for trial in batch}
            time.sleep(1)  # until the run of a process that is gone has saved

    def takes(self, trial: Any) -> bool:
        """Hold the lock of a trial until the search ends. Returns whether no other process holds it."""
        try:
            fcntl.lockf(self.locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + trial.number)
        except BlockingIOError:
            return False
        return True

    def folder_of(self, trial: Any) -> Path:
        """The folder of a trial's job; not a folder for a trial of another sweep."""
        return self.folder / trial.user_attrs.get("folder", SWEEP)

    def new_trial(self) -> optuna.Trial:
        """A new trial by a new sampler, in the folder of the job that has run with its words, if there is one."""
        before = self.study.get_trials(deepcopy=False)
        seed = {} if self.sampler.get("seed") is None else {"seed": self.sampler["seed"] + len(before)}
        self.study.sampler = make({**self.sampler, **seed}, "hydra.sweeper.sampler", optuna.samplers.BaseSampler)
        trial = self.study.ask(self.space)
        self.takes(trial)
        name = job_folder(self.folder, trial.number, tuple(self.words(trial)))
        if self.folder / name in [self.folder_of(each) for each in before if each.state == TrialState.RUNNING]:
            name = first_new(self.folder / str(i) for i in itertools.count(trial.number)).name
        trial.set_user_attr("folder", name)
        return trial

    def words(self, trial: Any) -> list[str]:
        """The words of a trial's job."""
        words = [*self.fixed, *(f"{key}={value}" for key, value in trial.params.items())]
        if folder := trial.user_attrs.get("folder"):
            words += [f"hydra.sweep.subdir={folder}", f"+hydra.job.env_set.{TRIAL}={trial.number}"]
        return words

    def tell(self, number: int, job: JobReturn) -> None:
        """Tell Optuna how a job has ended, and print it. Raises an error that all jobs would have."""
        trial, result = self.study.trials[number], job._return_value
        pruned = RunRecord(self.folder_of(trial)).content.get("state") == "pruned"
        values = None if pruned or isinstance(result, Exception) else result
        state = TrialState.PRUNED if pruned else TrialState.FAIL if values is None else TrialState.COMPLETE
        numbers = values if isinstance(values, list) else [values]
        named = ", ".join(f"{name} {number}" for name, number in zip(self.scores, numbers, strict=False))
        said = state.name.lower() if values is None else named
        console.print(f"trial {number}: {said} ({', '.join(f'{key}={value}' for key, value in trial.params.items())})")
        try:
            self.study.tell(number, values, state)
        except RuntimeError as error:
            if "stop" not in str(error):
                raise
            self.n_trials = 0  # the sampler has no more values; Optuna's own loop would end
        if isinstance(result, UserError) and str(result).startswith("sweep.score="):
            raise result

    def write_results(self) -> None:
        """Write the trials so far, from which the page of the search is drawn."""
        trials, best = self.study.get_trials(deepcopy=False), self.study.best_trials
        rows = [
            {"number": t.number, "state": t.state.name.lower(), "params": t.params, "values": t.values} for t in trials
        ]
        found: dict[str, Any] = {"name": "optuna", "scores": self.scores, "directions": self.directions, "trials": rows}
        found["solutions"] = [rows[trial.number] for trial in best]
        if len(self.scores) == 1 and best:
            found |= {"best_params": best[0].params, "best_value": best[0].value}
        share = max(0.1, min(0.5, 5 / len(trials)))  # of the trials count as the best
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share)
        with warnings.catch_warnings(action="ignore"):  # that there are few trials
            found["importances"] = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        replace(self.folder / RESULTS, yaml.safe_dump(json.loads(json.dumps(found)), sort_keys=False))  # no aliases


def place_of(storage: str | None, study_name: str | None, folder: Path) -> dict[str, Any]:
    """The storage and the name of the study of a search in `folder`, as Optuna's arguments."""
    place = storage or str(folder / "study.journal")
    backend = None if "://" in place else journal.JournalFileBackend(place, journal.JournalFileOpenLock(place))
    name = study_name or (folder.name if storage else "search")
    return {"storage": JournalStorage(backend) if backend else place, "study_name": name}


def space_of(word: Override) -> distributions.BaseDistribution:
    """The values of a setting, as Optuna's distribution. Raises UserError if there are none."""
    value: Any = word.value()
    try:
        if not isinstance(value, IntervalSweep | RangeSweep):
            choices: list[Any] = [*word.sweep_iterator(Transformer.encode)]
            return distributions.CategoricalDistribution(choices)
        every = [value.start, value.end] if isinstance(value, IntervalSweep) else sorted(value.range())
        whole = all(isinstance(each, int) for each in every)
        step = {"step": abs(value.step)} if isinstance(value, RangeSweep) else {}
        kind: Any = distributions.IntDistribution if whole else distributions.FloatDistribution
        return kind(every[0], every[-1], log="log" in value.tags, **step)
    except (ValueError, IndexError) as error:
        raise UserError(f"{word.input_line}: not a set of values ({first_line(error)})") from error
