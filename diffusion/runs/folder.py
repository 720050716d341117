"""The contents of a run's folder as plain data. This module imports neither torch nor matplotlib."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from diffusion.errors import UserError, first_line
from diffusion.files import replace
from diffusion.metric.record import Score
from diffusion.runs.metrics import Metrics, read_metrics
from diffusion.runs.record import CONFIG, RunRecord

SWEEP = "multirun.yaml"  # marks the folder of a sweep
SCORES = "scores.json"
PARTS = ("run.json", "metrics.csv", SCORES, CONFIG)
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
        """config.yaml."""
        return read_yaml(self.folder / CONFIG)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """`config` without `ckpt`; for an evaluation, the checkpoint's recipe updated with the evaluation's settings.

        For an evaluation, `seed` is that of training, `ckpt` is the file name of the checkpoint (the recipe identifies
        the run), and `reference` is the data used for scoring, if it differs from the recipe's.
        """
        recipe, config = self.config.get("recipe"), {k: v for k, v in self.config.items() if k != "ckpt"}
        if recipe is None:
            return config
        trained = {key: value for key, value in recipe.items() if key != "sampler"}
        chosen = {key: value for key, value in config.items() if key not in ("recipe", "seed", "data")}
        reference = {"reference": config["data"]} if config.get("data") else {}
        return trained | chosen | reference | {"ckpt": Path(str(self.config.get("ckpt"))).name}

    @property
    def name(self) -> str:
        """The name of the run."""
        return str(self.config.get("name") or self.folder.resolve().name)

    @cached_property
    def record(self) -> dict[str, Any]:
        """Hydra's record of the command; {} if another command has later been run in the folder of a training."""
        found = hydra_record(self.folder)
        return found if command_of(self.folder) == found.get("job", {}).get("name") else {}

    @property
    def overrides(self) -> list[str]:
        """This run's overrides from the command line or a sweep, without `ckpt`."""
        words = self.record.get("overrides", {}).get("task", [])
        return [word for word in words if not word.startswith("ckpt=")]

    @cached_property
    def choices(self) -> dict[str, str]:
        """Key of a group in the configuration -> its choice, as recorded by Hydra; {} without a record."""
        made = self.record.get("runtime", {}).get("choices", {})
        places = {key.rpartition("@")[2]: str(name) for key, name in made.items() if not key.startswith("hydra/")}
        if "recipe" in self.config:  # the choices of an evaluation, which may leave them to the run of its model
            return {key: name for key, name in places.items() if key != "data" and name not in ("run", "None")}
        return places

    @property
    def seeds(self) -> tuple[Any, ...]:
        """The training seed and, for an evaluation, that of the samples.

        In place of an unknown training seed: the scored file or folder, or the run's own folder.
        """
        config = self.config
        if "trainer" in config or not {"ckpt", "images"} & config.keys():
            return (config.get("seed", self.folder),)
        trained = config.get("recipe", {}).get("seed")
        return (config.get("ckpt") or config.get("images") if trained is None else trained, config.get("seed"))

    @cached_property
    def info(self) -> dict[str, Any]:
        """run.json."""
        return RunRecord(self.folder).content

    @property
    def state(self) -> str:
        """The state of the run; a folder with scores but no run.json is a complete evaluation."""
        return RunRecord(self.folder).state if self.info else "complete" if self.scores else "not started"

    @cached_property
    def scores(self) -> list[Score]:
        """scores.json."""
        return read_scores(self.folder)

    @cached_property
    def metrics(self) -> Metrics:
        """metrics.csv."""
        return read_metrics(self.folder / "metrics.csv")

    @cached_property
    def grids(self) -> list[tuple[int, Path]]:
        """(step, file) of samples/step-00001000.png, … in order of step."""
        return sorted((int(path.stem[5:]), path) for path in self.folder.glob("samples/step-*[0-9].png"))


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


def jobs_in(sweep: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folder and the `identity` of each job of a sweep."""
    for file in sorted(sweep.glob("*/.hydra/overrides.yaml")):
        yield file.parent.parent, identity(yaml.load(file.read_bytes(), LOADER) or ())  # it may just be written


def identity(overrides: Sequence[str]) -> list[str]:
    """The overrides that identify a job. Whether it resumes does not matter, but a path to resume from does."""
    return sorted(word for word in overrides if word not in ("ckpt=auto", "ckpt=last", "ckpt=null"))


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts r2 before r10, and names before numbers."""
    return [(int(digits or 0), text) for digits, text in re.findall(r"(\d*)(\D*)", path.name)]


def command_of(folder: Path) -> str:
    """The command that wrote the folder, such as `train` or `evaluate`."""
    return "train" if (folder / "run.json").is_file() else hydra_record(folder).get("job", {}).get("name", "train")


def hydra_record(folder: Path) -> dict[str, Any]:
    """Hydra's record of the last command in the folder: its `job`, `overrides`, `runtime`; {} if there is none."""
    found: dict[str, Any] = read_yaml(folder / ".hydra/hydra.yaml").get("hydra", {})
    return found


def read_scores(folder: Path) -> list[Score]:
    """The scores in a folder's scores.json, oldest first."""
    read = lambda content: [Score.from_json(record) for record in json.loads(content)]  # noqa: E731
    return _read(folder / SCORES, read, [])


def append_scores(folder: Path, new: Sequence[Score]) -> Path:
    """Add scores to scores.json and return its path. Scores with the same identity, of a repeated end, are replaced."""
    path, made = folder / SCORES, {score.identity for score in new}
    kept = [score for score in read_scores(folder) if score.identity not in made]
    replace(path, json.dumps([score.to_json() for score in [*kept, *new]], indent=1), durable=True)
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a yaml file."""
    return _read(path, lambda content: dict(yaml.load(content, LOADER)), {})


def _read(path: Path, parse: Callable[[bytes], Any], missing: Any) -> Any:
    """A parsed file, or `missing`. Raises UserError if it cannot be parsed."""
    if not path.is_file():
        return missing
    try:
        return parse(path.read_bytes())
    except (ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable ({first_line(error)}); restore it") from error
