"""Reading a run's folder: what training wrote, as plain data. Light: neither torch nor matplotlib."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.errors import UserError, first_line
from diffusion.runs.metrics import Metrics, read_metrics

CONFIGS = (
    "config.yaml",
    ".hydra/config.yaml",
)  # resolved by training; as Hydra leaves it, also where a run never began
PARTS = ("run.json", "metrics.csv", "scores.json", *CONFIGS)


@dataclass(frozen=True)
class Run:
    """What lies in a run's folder, read when asked for; a part that is missing reads as empty.

    Raises UserError for a folder that holds none of a run's files, and for a file that can't be parsed.
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
        """`config`; of an evaluation the recipe that its checkpoint was trained by, below what was chosen to evaluate.

        Then `seed` is the training's, `ckpt` the name of the file (the recipe says whose it is), and `reference` the
        data, where others than the recipe's were scored against. Evaluations that kept no recipe have their own alone.
        """
        recipe, own = self.config.get("recipe"), dict(self.config)
        if not isinstance(recipe, dict):
            return own
        trained = {key: value for key, value in recipe.items() if key != "sampler"}
        chosen = {key: value for key, value in own.items() if key not in ("recipe", "seed", "data")}
        other = {"reference": own["data"]} if own.get("data") else {}
        return trained | chosen | other | {"ckpt": Path(str(own.get("ckpt"))).name}

    @property
    def resolved(self) -> bool:
        """True where `config` is free of interpolations, or what was made by it is there."""
        return any((self.folder / name).is_file() for name in (CONFIGS[0], "scores.json"))

    @cached_property
    def overrides(self) -> list[str]:
        """The choices and values that this run was given on the command line or by a sweep, but for `ckpt`."""
        path = self.folder / ".hydra/overrides.yaml"
        words = _yaml(path) if path.is_file() else None
        return [str(word) for word in words if not str(word).startswith("ckpt=")] if isinstance(words, list) else []

    @cached_property
    def choices(self) -> dict[str, str]:
        """A group's place in the configuration -> the choice made there, as Hydra recorded it; {} without a record."""
        path = self.folder / ".hydra/hydra.yaml"
        node = _yaml(path) if path.is_file() else None
        for part in ("hydra", "runtime", "choices"):
            node = node.get(part) if isinstance(node, dict) else None
        made = node if isinstance(node, dict) else {}
        own = {key.rpartition("@")[2]: str(name) for key, name in made.items() if not key.startswith("hydra/")}
        return {key: name for key, name in own.items() if key != "data" or "recipe" not in self.config}

    @property
    def seeds(self) -> tuple[Any, ...] | None:
        """What tells this run from another draw of its recipe: its seed, an evaluation's the training's and its own.

        None where one isn't known.
        """
        recipe = self.config.get("recipe")
        seeds = tuple(config.get("seed") for config in (recipe, self.config) if isinstance(config, dict))
        return None if None in seeds else seeds

    @cached_property
    def info(self) -> dict[str, Any]:
        """run.json."""
        return _json(self.folder / "run.json", {})

    @cached_property
    def scores(self) -> list[dict[str, Any]]:
        return _json(self.folder / "scores.json", [])

    @cached_property
    def metrics(self) -> Metrics:
        path = self.folder / "metrics.csv"
        try:
            return read_metrics(path)
        except (ValueError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not a table of numbers ({first_line(error)}); restore it") from error

    @cached_property
    def grids(self) -> list[tuple[int, Path]]:
        """(step, file) of samples/step-00001000.png, … in order of step."""
        found = ((re.fullmatch(r"step-(\d+)\.png", p.name), p) for p in self.folder.glob("samples/step-*.png"))
        return sorted((int(match[1]), path) for match, path in found if match)

    @property
    def steps_per_epoch(self) -> float | None:
        steps, epochs = self.info.get("steps"), self.info.get("epochs")
        return steps / epochs if steps and epochs else None


def is_run(folder: Path) -> bool:
    """True where `folder` holds at least one of a run's files."""
    return any((folder / part).is_file() for part in PARTS)


def command_of(folder: Path) -> str:
    """The command that made the folder: train, or what Hydra noted, such as sample."""
    noted = folder / ".hydra/hydra.yaml"
    if (folder / "run.json").is_file() or not noted.is_file():
        return "train"
    match = re.search(r"^  job:\n    name: (\w+)", noted.read_text(errors="replace"), re.MULTILINE)
    return match[1] if match else "train"


def _yaml(path: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"{path}: not readable as yaml ({first_line(error)}); restore it") from error


def _json(path: Path, empty: Any) -> Any:
    if not path.is_file():
        return empty
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({first_line(error)}); restore it") from error
    if not isinstance(content, type(empty)):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a {type(empty).__name__}; restore it")
    return content
