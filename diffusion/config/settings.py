"""What settings may be, so that a value of the wrong kind is one line, before anything is read or made.

`check` knows those that stand outside of the groups, and the trainer's. What a group's choice takes (`model.channels`,
`sampler.steps`, …) is what the class or function that it names is annotated with: `check_arguments`.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from diffusion.config.choices import conf_dir
from diffusion.errors import UserError, nearest


@dataclass(frozen=True)
class Kind:
    """What a value may be: in words, and whether one is."""

    words: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()  # where there are few

    def __or__(self, other: "Kind") -> "Kind":
        return Kind(f"{self.words} or {other.words}", lambda value: self.holds(value) or other.holds(value))


def shown(value: Any) -> str:
    """As the command line writes it."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(shown, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _bounds(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" from {least} to {most}"
    return "" if least is None else f" of at least {least}"


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def whole(least: int | None = None, most: int | None = None) -> Kind:
    """A whole number, within bounds where there are some."""
    return Kind(
        "a whole number" + _bounds(least, most), lambda value: type(value) is int and _within(value, least, most)
    )


def number(least: float | None = None, most: float | None = None) -> Kind:
    """A number, within bounds where there are some; infinity only where it is not bounded above, NaN never."""
    return Kind(
        "a number" + _bounds(least, most),
        lambda value: type(value) in (int, float) and value == value and _within(value, least, most),
    )


def one_of(*choices: Any) -> Kind:
    """One of these."""
    names = tuple(map(shown, choices))
    return Kind(", ".join(names), lambda value: any(value == c and type(value) is type(c) for c in choices), names)


def each(kind: Kind, length: int | None = None, least: int = 0) -> Kind:
    """A list, of a length where it has one or of at least so many, each of its values of the kind."""
    many = f" of {length} values" if length is not None else f" of at least {least}" if least else ""

    def holds(value: Any) -> bool:
        fits = isinstance(value, list | tuple) and length in (None, len(value)) and len(value) >= least
        return fits and all(kind.holds(item) for item in value)

    return Kind(f"a list{many}, each {kind.words}", holds)


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NULL = Kind("null", lambda value: value is None)
TEXT = Kind("a text", lambda value: isinstance(value, str))
ANY = Kind("anything", lambda value: True)
INSIDE = Kind(
    "a text that leads to no other folder than outputs",
    lambda value: (
        isinstance(value, str | int) and value != "" and ".." not in Path(str(value)).parts and str(value)[0] != "/"
    ),
)

PLAIN = (int, float, bool, str, list, tuple, type(None))  # what yaml holds, beside mappings
PART = Kind("a part of its own", lambda value: not isinstance(value, PLAIN))

SEED = whole(0, 2**32 - 1)
SPLIT = one_of("train", "val", "test")
AUDIT = each(one_of("pixels", "features"))
YARDSTICKS = ("noise", "real", "floor")

SETTINGS: dict[str, dict[str, Kind]] = {
    "train": {
        "name": INSIDE,
        "seed": SEED,
        "ckpt": TEXT | NULL,
        "compile": FLAG,
        "channels_last": FLAG,
        "matmul_precision": one_of("highest", "high", "medium"),
        "validation.draws": whole(1),
        "validation.seed": SEED,
        "samples.n": whole(0),
        "samples.every_n_epochs": whole(1) | NULL,
        "score.n": whole(0),
        "score.every_n_epochs": whole(1) | NULL,
        "score.split": SPLIT,
        "score.audit": AUDIT,
        "score.yardsticks": each(one_of(*YARDSTICKS, "untrained")),
        "score.batch_size": whole(1),
        "trainer.max_epochs": whole(1) | one_of(-1) | NULL,
        "trainer.max_steps": whole(1) | one_of(-1),
        "trainer.accumulate_grad_batches": whole(1),
        "trainer.check_val_every_n_epoch": whole(1) | NULL,
        "trainer.val_check_interval": whole(1) | number(0, 1) | NULL,
        "trainer.gradient_clip_val": number(0) | NULL,
        "trainer.log_every_n_steps": whole(0),
    },
    "sample": {
        "name": INSIDE,
        "ckpt": TEXT,
        "weights": one_of("ema", "raw"),
        "n": whole(1),
        "seed": SEED | NULL,
        "batch_size": whole(1),
        "trajectory": FLAG,
        "frames": whole(1),
        "device": TEXT,
    },
    "evaluate": {
        "name": INSIDE,
        "ckpt": TEXT | NULL,
        "images": TEXT | NULL,
        "weights": one_of("ema", "raw"),
        "split": SPLIT,
        "again": FLAG,
        "n": whole(1) | NULL,
        "seed": SEED | NULL,
        "batch_size": whole(1) | NULL,
        "audit": AUDIT,
        "bits": whole(0),
        "yardsticks": each(one_of(*YARDSTICKS)),
        "device": TEXT,
    },
    "study": {
        "name": INSIDE,
        "ckpt": TEXT,
        "samplers": one_of("all") | each(TEXT, least=1),
        "nfe": each(whole(1), least=1),
        "yardsticks": each(one_of(*YARDSTICKS)),
        "n": whole(1),
        "weights": one_of("ema", "raw"),
        "split": SPLIT,
        "seed": SEED,
        "batch_size": whole(1),
        "device": TEXT,
    },
}

GROUPS = {
    "train": (
        "data", "model", "schedule", "prediction", "objective", "optimizer", "lr_scheduler", "trainer", "sampler",
        "features", "metrics",
    ),
    "study": ("features", "metrics"),
}  # fmt: skip
"""Of which a choice is needed."""

SECTIONS = {"train": ("validation", "checkpoint", "guard", "samples", "score")}


def check(command: str, config: Mapping[str, Any]) -> None:
    """UserError at the first setting of a command's configuration that is not of its kind."""
    for group in GROUPS.get(command, ()):
        if not config.get(group):
            raise UserError(needed(group))
    for section in SECTIONS.get(command, ()):
        if not isinstance(config.get(section), Mapping):
            raise UserError(
                f"{section}={shown(config.get(section))}: it has settings of its own; leave it out, or set one of them"
            )
    for key, kind in SETTINGS[command].items():
        found = at(config, key)
        if found is not MISSING and not kind.holds(found):
            near = nearest(shown(found), kind.choices)
            raise UserError(f"{key}={shown(found)}: expected {kind.words}{near}{_default(command, key)}")


def needed(group: str) -> str:
    """That a choice of a group is needed, and which there are."""
    choices = sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
    return f"{group}=null: one is needed; {group} is one of {', '.join(choices)}"


def check_arguments(target: Any, values: Mapping[str, Any], where: str) -> None:
    """UserError where a value is not what the class or function `target` is annotated to take, in one line."""
    hints = annotations(target)
    for name, value in values.items():
        kind = kind_of(hints.get(name, Any))
        if not kind.holds(value):
            found, group = f"{where}.{name}={shown(value)}", where.partition(".")[0]
            if kind == PART and (conf_dir() / name).is_dir():
                choice = "…" if value is None else shown(value)
                raise UserError(f"{found}: one is needed, chosen with its place: {name}@{where}.{name}={choice}")
            raise UserError(f"{found}: expected {kind.words}; conf/{group} has values that work")


@cache
def annotations(target: Any) -> Mapping[str, Any]:
    """The type of each argument, where it is known: also of those that go on to a parent class."""
    if not inspect.isclass(target):
        return _hints(target)
    found: dict[str, Any] = {}
    for parent in target.__mro__:
        init = parent.__dict__.get("__init__")
        if init is not None:
            found = {**_hints(init), **found}
            if inspect.Parameter.VAR_KEYWORD not in (p.kind for p in inspect.signature(init).parameters.values()):
                break
    return found


def kind_of(hint: Any) -> Kind:
    """The kind of value, as yaml has them, that a type stands for; anything for what yaml can't write."""
    plain = {int: whole(), float: number(), bool: FLAG, str: TEXT, type(None): NULL, None: NULL, Path: TEXT}
    if hint in plain:
        return plain[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind_of(arg) for arg in args]
        told = [arg for arg in args if not _part(arg) and not (arg is int and float in args)]
        words = dict.fromkeys(kind_of(arg).words for arg in told)
        return Kind(" or ".join(words), lambda value: any(kind.holds(value) for kind in kinds))
    if origin is Literal:
        return one_of(*args)
    if origin in (list, Sequence, Iterable):
        return each(kind_of(args[0]) if args else ANY)
    if origin is tuple:
        return each(kind_of(args[0]), None if args[-1] is Ellipsis else len(args))
    return PART if _part(hint) else ANY


def _part(hint: Any) -> bool:
    """Whether it is of an object, or a function."""
    if inspect.isclass(hint) and not isinstance(hint, types.GenericAlias):
        return hint not in (*PLAIN, Any, object)
    return typing.get_origin(hint) is Callable


class _Missing:
    """Of a setting that is not there."""


MISSING = _Missing()


def at(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; MISSING where there is none."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return MISSING
        node = node[part]
    return node


def has(config: Mapping[str, Any], key: str) -> bool:
    """Whether there is a value at a dotted key."""
    return at(config, key) is not MISSING


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation that only a type checker can resolve
        return {}


def _default(command: str, key: str) -> str:
    """The mend: what the setting is where nobody sets it."""
    group, _, rest = key.partition(".")
    trainer = group == "trainer"
    file = conf_dir() / ("trainer/default.yaml" if trainer else f"{command}.yaml")
    value = at(yaml.safe_load(file.read_text()), rest if trainer else key)
    return "" if value in (MISSING, "???") or "${" in str(value) else f"; {key}={shown(value)} is the default"
