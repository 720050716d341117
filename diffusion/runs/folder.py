"""A run's folder as plain data: settings, record, scores, curves; folders of runs. Imports no torch, no matplotlib."""

import csv
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion.base.files import replace
from diffusion.config.build import plain_yaml
from diffusion.config.choices import leaves
from diffusion.errors import UserError
from diffusion.metric.record import Score
from diffusion.runs.record import CONFIG, FILE, LOCK, RunRecord, parsed, read_json

SWEEP = "multirun.yaml"  # marks the folder of a sweep
STUDY = "study.journal"  # of a search
DAMAGED = "damaged"  # the state of a run with a file that cannot be read
SCORES, METRICS = "scores.json", "metrics.csv"
REFEREE = "referee.json"  # see `metric.referee`
ENSEMBLE = "ensemble.json"  # the ranks of real values among samples, for a chart
FLOOR = "floor.csv"  # see `scoring.errors_by_level`
PARTS = ("run.json", METRICS, SCORES, CONFIG)
OURS = re.compile(rb'diffusion\.runs|job_folder|"command": \[\s*"diffusion')  # in our records
HIDDEN = {".hydra", LOCK, ".slurm", ".trials", ".DS_Store", ".gitignore", ".gitkeep"}  # of us, and of other programs
MEASURED = ("data", "schedule", "validation", "trainer.limit_val_batches")  # must be equal to compare errors, but for
UNMEASURED = ("data.batch_size", "data.eval_batch_size", "data.global_batch_size", "data.flip", "validation.floor")


class Curve(NamedTuple):
    """One logged quantity: `step` (n,) int, ascending, and `value` (n,) float.

    `step` is the number of completed training steps. The file counts from 0: its step 99 is logged after 100 steps.
    """

    step: np.ndarray
    value: np.ndarray

    def at(self, step: int) -> float:
        """The value at a step; NaN if nothing was logged."""
        return float(dict(zip(*self, strict=True)).get(step, math.nan))


Metrics = Mapping[str, Curve]


@dataclass(frozen=True)
class Run:
    """A run's folder. Files are read lazily; a missing one reads as empty. Raises UserError if one cannot be parsed."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml."""
        return read_yaml(self.folder / CONFIG)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """`config` without `ckpt`; for an evaluation, the checkpoint's recipe updated with the evaluation's settings.

        Then `seed` is that of training, `ckpt` is the name of the file, and `reference` the data used for scoring.
        """
        config = {**self.config}
        recipe, ckpt, _ = (config.pop(key, None) for key in ("recipe", "ckpt", "facts"))
        if recipe is None:
            return config
        trained = {key: value for key, value in recipe.items() if key != "sampler"}
        chosen = {key: value for key, value in config.items() if key not in ("seed", "data")}
        reference = {"reference": config["data"]} if config.get("data") else {}
        return trained | chosen | reference | {"ckpt": Path(str(ckpt)).name}

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.folder.resolve().name)

    @cached_property
    def record(self) -> dict[str, Any]:
        """Hydra's record: `job`, `overrides`, `runtime`. {} without one, or if a later command wrote it."""
        found = read_yaml(self.folder / ".hydra/hydra.yaml").get("hydra", {})
        trained = (self.folder / "run.json").is_file()
        return {} if trained and found.get("job", {}).get("name") != "train" else found

    @property
    def command(self) -> str:
        """The command that wrote the folder, such as `train` or `evaluate`."""
        return str(self.record.get("job", {}).get("name", "train"))

    @property
    def overrides(self) -> list[str]:
        """This run's overrides from the command line or a sweep, without `ckpt`."""
        words = self.record.get("overrides", {}).get("task", [])
        return [word for word in words if not word.startswith("ckpt=")]

    @property
    def own(self) -> list[str]:
        """`--config-dir CONF`, if the run was started with it: a later command needs it, too."""
        sources = self.record.get("runtime", {}).get("config_sources", [])
        paths = [each["path"] for each in sources if each["provider"] == "command-line"]
        return [word for path in paths for word in ("--config-dir", min(os.path.relpath(path), path, key=len))]

    @cached_property
    def commands(self) -> list[list[str]]:
        """The commands that have trained here, oldest first: the name and the words of each, as run.json has them."""
        typed = [*self.info.get("earlier_commands", []), self.info.get("command", [])]
        return [words[1:] for words in typed if words[1:]]

    @cached_property
    def choices(self) -> dict[str, str]:
        """Key of a group in the configuration -> its choice, as recorded by Hydra; {} without a record."""
        made = self.record.get("runtime", {}).get("choices", {})
        places = {key.rpartition("@")[2]: str(name) for key, name in made.items() if not key.startswith("hydra/")}
        own = {key: name for key, name in places.items() if not leaves(key, name)}  # not left to a model
        if "recipe" in self.config:
            own = {key: name for key, name in own.items() if key != "data" and name != "None"}
        return own

    @property
    def seeds(self) -> tuple[Any, ...]:
        """The training seed (if unknown: what was scored, or the folder), and for an evaluation that of the samples."""
        config = self.config
        scored = config.get("ckpt") or config.get("images")
        if "trainer" in config or not scored:
            return (config.get("seed", self.folder),)
        trained = config.get("recipe", {}).get("seed")
        return (scored if trained is None else trained, config.get("seed"))

    @cached_property
    def info(self) -> dict[str, Any]:
        """run.json."""
        return read_json(self.folder / FILE)

    @property
    def state(self) -> str:
        """The state of the run; a folder with scores but no run.json is a complete evaluation."""
        return RunRecord(self.folder).state if self.info else "complete" if self.scores else "not started"

    @cached_property
    def scores(self) -> list[Score]:
        """scores.json."""
        return read_scores(self.folder)

    @property
    def is_study(self) -> bool:
        """Whether the folder has scores by sampling cost (NFE)."""
        return any("nfe" in score.source for score in self.scores)

    @cached_property
    def referee(self) -> dict[str, Any]:
        """referee.json: the answers of the referee, and the faults of the samples."""
        return read_json(self.folder / REFEREE)

    @property
    def faults(self) -> list[dict[str, Any]]:
        """The faults of the samples, the clearest first; see `metric.faults`."""
        return list(self.referee.get("faults", []))

    @cached_property
    def metrics(self) -> Metrics:
        """metrics.csv."""
        return read_metrics(self.folder / METRICS)

    @cached_property
    def grids(self) -> list[tuple[int, Path]]:
        """(step, file) of samples/step-00001000.png, … in order of step."""
        return sorted((int(path.stem[5:]), path) for path in self.folder.glob("samples/step-*[0-9].png"))


def is_run(folder: Path) -> bool:
    """Whether `folder` contains a file of a run. Hydra's record also has a config.yaml."""
    return folder.name != ".hydra" and any(os.path.isfile(folder / part) for part in PARTS)  # false if unreadable


def is_sweep(folder: Path) -> bool:
    """Whether the folder was made for the jobs of a sweep."""
    return (folder / SWEEP).is_file()


def jobs_of(folder: Path) -> list[Run]:
    """The runs in the subfolders of `folder`, ordered by name."""
    return [Run(path) for path in sorted(folder.glob("*"), key=natural_order) if is_run(path)]


def runs_below(folder: Path) -> Iterator[Path]:
    """Yield the output folders of commands at or below `folder`, ordered by name (job 2 before 10).

    Raises UserError if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; choose a folder with runs, such as outputs")
    for here, inside, _ in os.walk(folder):
        if is_run(Path(here)):
            yield Path(here)
            inside.clear()
        inside.sort(key=lambda name: natural_order(Path(name)))


def check_output(folder: str | Path | None, key: str = "hydra.run.dir") -> None:
    """Check a folder before a command writes into it: it is new, empty but for files in `HIDDEN`, or one of ours.

    Raises UserError for files of others, and for a link, through which files elsewhere could be removed.
    """
    if not folder:
        raise UserError(f"{key}: it is empty, as from a variable that is not set; name a new folder, or leave it out")
    path = Path(folder)
    found = sorted({each.name for each in path.glob("*")} - HIDDEN)
    records = [file for name in (FILE, ".hydra/hydra.yaml", SWEEP) if (file := path / name).is_file()]
    if found and not any(OURS.search(file.read_bytes()) for file in records):
        raise UserError(
            f"{folder}: it contains {found[0]} and is no output of diffusion; choose a new folder ({key}=…)"
        )
    if link := next((each for each in (*path.glob("*"), *path.glob("checkpoints/*/")) if each.is_symlink()), None):
        raise UserError(
            f"{link}: a link, through which files elsewhere could be removed; replace it by what it leads to"
        )


def holds_checkpoints(folder: Path) -> bool:
    """Whether a run has saved checkpoints or weights in its folder."""
    return any(file.suffix in (".ckpt", ".safetensors") for file in folder.glob("checkpoints/*"))


def discard(folder: Path) -> None:
    """Remove the checkpoints, samples, scores and curves of an earlier run before another one starts from scratch.

    Without checkpoints there, the files are not those of an earlier run, and are kept.
    """
    if holds_checkpoints(folder):
        inside = [file for name in ("checkpoints", "samples") for file in (folder / name).rglob("*")]
        for file in [*inside, folder / SCORES, folder / METRICS, folder / FLOOR, folder / REFEREE]:
            if not file.is_dir():
                file.unlink(missing_ok=True)


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A sort key that puts r2 before r10, and names before numbers."""
    return [(int(digits or 0), text) for digits, text in re.findall(r"(\d*)(\D*)", path.name)]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a yaml file; {} without one."""
    return parsed(path, plain_yaml, {})


def read_scores(folder: Path) -> list[Score]:
    """The scores in a folder's scores.json, oldest first."""
    return parsed(folder / SCORES, lambda content: [Score.from_json(record) for record in json.loads(content)], [])


def append_scores(folder: Path, new: Sequence[Score]) -> None:
    """Add scores to scores.json. Those with the same identity, of a repeated end, are replaced."""
    made = {score.identity for score in new}
    kept = [score for score in read_scores(folder) if score.identity not in made]
    replace(folder / SCORES, json.dumps([score.to_json() for score in [*kept, *new]], indent=1), durable=True)


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv, one per logging call, without their many empty cells; [] if there is no file.

    A last line without a line break is skipped: it is still being written, or the run was killed meanwhile.
    """

    def parse(content: bytes) -> list[dict[str, float]]:
        lines = list(csv.reader(content[: content.rfind(b"\n") + 1].decode("utf-8").splitlines()))
        return [{name: float(cell) for name, cell in zip(lines[0], line, strict=True) if cell} for line in lines[1:]]

    return parsed(path, parse, [])


def read_metrics(path: Path) -> dict[str, Curve]:
    """Column name -> `Curve` of its finite values. If a step was logged twice, the later row is used."""
    cells: dict[str, dict[int, float]] = {}
    for row in read_rows(path):
        for name in row.keys() - {"epoch", "step"} if "step" in row else ():
            if math.isfinite(row[name]):
                cells.setdefault(name, {})[1 + int(row["step"])] = row[name]
    ordered = {name: sorted(column.items()) for name, column in sorted(cells.items())}
    return {name: Curve(*map(np.array, zip(*column, strict=True))) for name, column in ordered.items()}


def measures(setting: str) -> bool:
    """Whether the errors (val/mse) of two runs that differ in this setting measure different tasks or images."""
    return setting.startswith(MEASURED) and setting not in UNMEASURED


def bins_of(metrics: Metrics, quantity: str) -> list[str]:
    """The columns `val/mse_bin0` to `val/mse_bin9` of a quantity such as `val/mse`, ordered by time t."""
    return sorted(name for name in metrics if re.fullmatch(rf"{quantity}_bin\d", name))


def validated_weights(metrics: Metrics) -> str:
    """The weights that val/mse measures. (val/mse_raw is only logged in addition to the error of an average.)"""
    return "EMA weights" if "val/mse_raw" in metrics else "raw weights"
