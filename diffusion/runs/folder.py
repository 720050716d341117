"""The contents of a run's folder as plain data. This module imports neither torch nor matplotlib."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from diffusion.console import console
from diffusion.errors import UserError, first_line
from diffusion.files import replace, set_aside
from diffusion.metric.record import Score
from diffusion.runs.metrics import Metrics, read_metrics
from diffusion.runs.record import RunRecord

CONFIGS = ("config.yaml", ".hydra/config.yaml")  # written by the run, resolved; written by Hydra before the run
SWEEP = "multirun.yaml"  # marks the folder of a sweep
SCORES = "scores.json"
OTHERS = ("sample", "edit", "evaluate", "study", "study_guidance")  # commands, besides train, that Hydra records
PARTS = ("run.json", "metrics.csv", SCORES, *CONFIGS)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is ten times faster


@dataclass(frozen=True)
class Run:
    """A run's folder. Files are read lazily; a missing file reads as empty.

    Raises UserError for a folder that contains no file of a run, and for a file that cannot be parsed.
    """

    folder: Path

    def __post_init__(self) -> None:
        if not is_run(self.folder):
            raise UserError(
                f"{self.folder}: no run here; expected a folder with one of {', '.join(PARTS)}, "
                "as python -m diffusion.train writes it"
            )

    @cached_property
    def config(self) -> dict[str, Any]:
        path = next((path for name in CONFIGS if (path := self.folder / name).is_file()), None)
        config = _yaml(path) if path else None
        return {str(key): value for key, value in config.items()} if isinstance(config, dict) else {}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """`config`; for an evaluation, the checkpoint's recipe updated with the settings of the evaluation.

        For an evaluation, `seed` is that of training, `ckpt` is the file name of the checkpoint (the recipe identifies
        the run), and `reference` is the data used for scoring, if it differs from the recipe's.
        """
        recipe, config = self.config.get("recipe"), dict(self.config)
        if not isinstance(recipe, dict):
            return config
        trained = {key: value for key, value in recipe.items() if key != "sampler"}
        chosen = {key: value for key, value in config.items() if key not in ("recipe", "seed", "data")}
        reference = {"reference": config["data"]} if config.get("data") else {}
        return trained | chosen | reference | {"ckpt": Path(str(config.get("ckpt"))).name}

    @property
    def name(self) -> str:
        """The name of the run."""
        return str(self.config.get("name") or self.folder.resolve().name)

    @cached_property
    def overrides(self) -> list[str]:
        """This run's overrides from the command line or a sweep, without `ckpt`."""
        return [] if self.overwritten else recorded_overrides(self.folder)

    @cached_property
    def choices(self) -> dict[str, str]:
        """Key of a group in the configuration -> its choice, as recorded by Hydra; {} without a record."""
        path = self.folder / ".hydra/hydra.yaml"
        if self.overwritten or not path.is_file():
            return {}
        try:
            made = _yaml(path)["hydra"]["runtime"]["choices"]
        except (LookupError, TypeError):
            return {}
        places = {key.rpartition("@")[2]: str(name) for key, name in made.items() if not key.startswith("hydra/")}
        if "recipe" in self.config:  # the choices of an evaluation, which may leave them to the run of its model
            return {key: name for key, name in places.items() if key != "data" and name not in ("run", "None")}
        return places

    @property
    def overwritten(self) -> bool:
        """Whether another command has later been run in the folder of a training, and replaced Hydra's record."""
        return (self.folder / "run.json").is_file() and recorded_command(self.folder) in OTHERS

    @property
    def seeds(self) -> tuple[Any, ...] | None:
        """The run's seed; for an evaluation, the seeds of training and of the samples. None if unknown."""
        recipe = self.config.get("recipe")
        seeds = tuple(config.get("seed") for config in (recipe, self.config) if isinstance(config, dict))
        return None if None in seeds else seeds

    @property
    def trained(self) -> Any:
        """The training seed of the run's model; if it is unknown, the scored file or folder of images, if any."""
        recipe = self.config.get("recipe") or (self.config if "trainer" in self.config else {})
        seed = recipe.get("seed")
        return self.config.get("ckpt") or self.config.get("images") if seed is None else seed

    @cached_property
    def info(self) -> dict[str, Any]:
        """run.json."""
        return RunRecord(self.folder).checked()

    @property
    def state(self) -> str:
        """The state in run.json; a folder with scores but no run.json is a complete evaluation."""
        return str(self.info.get("state", "complete" if self.scores else "not started"))

    @cached_property
    def scores(self) -> list[Score]:
        """scores.json."""
        return read_scores(self.folder)

    @cached_property
    def metrics(self) -> Metrics:
        """metrics.csv."""
        path = self.folder / "metrics.csv"
        try:
            return read_metrics(path)
        except ValueError as error:
            raise UserError(f"{path}: not a table of numbers ({first_line(error)}); restore it") from error

    def last(self, name: str) -> float | None:
        """The last finite value of a column of metrics.csv; None without one."""
        series = self.metrics.get(name)
        return None if series is None else float(series.value[-1])

    @cached_property
    def grids(self) -> list[tuple[int, Path]]:
        """(step, file) of samples/step-00001000.png, … in order of step."""
        return sorted((int(path.stem[5:]), path) for path in self.folder.glob("samples/step-*[0-9].png"))


def epoch_lengths(info: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(step, steps per epoch from that step on) in a run.json, in order; several if it changed on resuming the run."""
    return [(int(step), int(length)) for step, length in info.get("epoch_lengths", ())]


def is_run(folder: Path) -> bool:
    """Whether `folder` contains a file of a run."""
    return any(os.path.isfile(folder / part) for part in PARTS)  # also false for a folder that cannot be read


def jobs_of(folder: Path) -> list[Run]:
    """The runs in the subfolders of `folder`, ordered by name."""
    inside = [path for path in folder.iterdir() if is_run(path)] if folder.is_dir() else []
    return [Run(path) for path in sorted(inside, key=natural_order)]


def runs_below(folder: Path) -> Iterator[Path]:
    """Yield the output folders of commands at or below `folder`, ordered by name (job 2 before 10).

    Raises UserError if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; choose a folder with runs, such as outputs")
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if is_run(here):
            yield here
        else:
            inside = [path for path in here.iterdir() if path.is_dir() and not path.is_symlink()]
            waiting += sorted(inside, key=natural_order, reverse=True)


def is_sweep(folder: Path) -> bool:
    """Whether the folder was made for the jobs of a sweep."""
    return (folder / SWEEP).is_file()


def sweep_of(folder: Path) -> str | None:
    """NAME/sweep-TIME, the last parts of the path of the sweep that a run belongs to; None for other runs."""
    return "/".join(folder.parts[-3:-1]) if is_sweep(folder.parent) else None


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts r2 before r10, and names before numbers."""
    return [(int(digits or 0), text) for digits, text in re.findall(r"(\d*)(\D*)", path.name)]


def read_scores(folder: Path) -> list[Score]:
    """The scores in a folder's scores.json, oldest first; [] if there is no such file."""
    path = folder / SCORES
    if not path.is_file():
        return []
    try:
        records = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({first_line(error)}); restore it") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path}: expected a list of scores; restore it")
    return [Score.from_json(record) for record in records]


def append_scores(folder: Path, new: Sequence[Score]) -> Path:
    """Add scores to scores.json and return its path. A score with the same identity is replaced.

    This happens when a run repeats its end. A damaged file is renamed, with a warning.
    """
    path = folder / SCORES
    try:
        before = read_scores(folder)
    except UserError as error:
        console.print(f"{error}; renamed to {set_aside(path)}", style="yellow")
        before = []
    made = {score.identity for score in new}
    kept = [score for score in before if score.identity not in made]
    replace(path, json.dumps([score.to_json() for score in [*kept, *new]], indent=1), durable=True)
    return path


def command_of(folder: Path) -> str:
    """The command that created the folder: `train`, or the one recorded by Hydra, such as `sample`."""
    return "train" if (folder / "run.json").is_file() else recorded_command(folder) or "train"


def recorded_command(folder: Path) -> str | None:
    """The last command in the folder, as recorded by Hydra; None without a record."""
    record = folder / ".hydra/hydra.yaml"
    text = record.read_text(errors="replace") if record.is_file() else ""
    match = re.search(r"^  job:\n    name: (\w+)", text, re.MULTILINE)
    return match[1] if match else None


def recorded_overrides(folder: Path) -> list[str]:
    """The overrides of the last command in the folder, as recorded by Hydra, without `ckpt`."""
    path = folder / ".hydra/overrides.yaml"
    words = _yaml(path) if path.is_file() else None
    return [str(word) for word in words if not str(word).startswith("ckpt=")] if isinstance(words, list) else []


def _yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_bytes(), LOADER)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not readable as yaml ({first_line(error)}); restore it") from error
