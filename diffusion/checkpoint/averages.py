"""Snapshots of a run's power-function averages, and post-hoc weights of any other length computed from them.

checkpoints/averages/step-00001234.pt, written like a checkpoint (`storage`), contains the averages at a step. A
checkpoint contains those of its own step, and lists the earlier snapshots with their hashes: a file of another run, or
of steps that were repeated later, is never mixed in. The mathematics is in `diffusion.process.averaging`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import MinLen, Predicate
from pydantic import BaseModel, PositiveInt, ValidationError
from torch import Tensor

from diffusion.checkpoint import storage
from diffusion.console import console, count
from diffusion.errors import UserError
from diffusion.files import tensor_digest
from diffusion.process.averaging import Profile, coefficients, gamma_of

FOLDER = "averages"  # subfolder of the checkpoints' folder
STATE = "PowerEMA"  # key of the averages in a checkpoint's callbacks
WORST = 0.25  # largest missing part of a profile, in the L² norm
Averages = Mapping[str, Mapping[str, Tensor]]  # σ_rel -> name in the module -> averaged parameter
Length = Annotated[str, Predicate(lambda text: repr(float(text)) == text)]


def _alike(averages: Averages) -> bool:
    """Whether all lengths have averages of the same parameters."""
    shapes = [each for _, each in _shapes(averages)]
    return all(each == shapes[0] for each in shapes)


class State(BaseModel, strict=True, arbitrary_types_allowed=True):
    """The state in a checkpoint: its averages, their number of optimizer steps, and the earlier snapshots."""

    averages: Annotated[dict[Length, dict[str, Tensor]], MinLen(1), Predicate(_alike)]
    updates: PositiveInt
    snapshots: dict[int, tuple[PositiveInt, str]]  # step -> updates, hash


def snapshot(checkpoints: Path, step: int) -> Path:
    """The snapshot file of a step, in a folder of checkpoints."""
    return checkpoints / FOLDER / f"step-{step:08d}.pt"


def snapshots(checkpoints: Path) -> dict[int, Path]:
    """step -> file, for all snapshots in a folder of checkpoints."""
    found = {file: re.fullmatch(r"step-(\d+)\.pt", file.name) for file in sorted((checkpoints / FOLDER).glob("*"))}
    return {int(match[1]): file for file, match in found.items() if match}


def save(averages: Averages, path: Path) -> str:
    """Write a snapshot and return its hash. Raises OSError like `storage.save`."""
    storage.save({"averages": averages}, path)
    return hash_of(averages)


def load(path: Path, expected: str) -> Averages:
    """Read a snapshot. Raises storage.Damaged unless it has the expected hash."""
    found: Any = storage.load(path).get("averages")
    try:
        same = hash_of(found) == expected
    except (AttributeError, TypeError, RuntimeError) as error:
        raise storage.Damaged("it is not a snapshot") from error
    if not same:
        raise storage.Damaged("it belongs to another run, or to steps that were repeated")
    return found


def hash_of(averages: Averages) -> str:
    """The first 16 digits of the SHA-256 of the averages."""
    values = {f"{length} {name}": value for length, each in averages.items() for name, value in each.items()}
    return tensor_digest(values)[:16]


def of_length(contents: Mapping[str, Any], path: Path, length: float) -> dict[str, Tensor]:
    """The parameters averaged with length σ_rel, at the step of the checkpoint `path`, by name in the module.

    A tracked length is in the checkpoint itself. Any other length is a linear combination, in float64, of the averages
    in the checkpoint and in the earlier snapshots. Raises UserError if that is impossible or too inaccurate.
    """
    asked = f"ckpt={path}: weights={length:g}"
    gamma, saved = gamma_of(length), _saved(contents, asked)
    try:
        state = State.model_validate(saved)
        own, listed = state.averages, {n: (i, key) for i, (n, key) in state.snapshots.items() if n < state.updates}
        if (tracked := own.get(repr(float(length)))) is not None:
            return tracked
        times = [*listed, state.updates]
        x, missing = coefficients(
            [Profile(gamma_of(float(each)), n) for n in times for each in own], Profile(gamma, state.updates)
        )
    except (ValidationError, OverflowError, RuntimeError) as error:  # numbers may be too large, or almost equal
        raise UserError(
            f"{asked}: not a checkpoint of diffusion.train (its averages are malformed); use one of those"
        ) from error
    found = f"{count(len(x), 'average')} at {count(len(times), 'step')}"
    if not missing <= WORST:
        raise UserError(
            f"{asked}: {missing:.0%} of its profile would be missing (at most {WORST:.0%} may be) from a combination "
            f"of {found}; use a length closer to {' and '.join(own)}, or train with a larger ema.snapshots"
        )
    factors = iter(x.tolist())
    first = next(iter(own.values()))
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in first.items()}
    for n in times:
        held = own if n == state.updates else _snapshot(snapshot(path.parent, listed[n][0]), listed[n][1], own, asked)
        for each in own:
            factor = next(factors)
            for name, total in sums.items():
                total.add_(held[each][name].double(), alpha=factor)
    console.print(f"weights={length:g}: combined from {found}; {missing:.1%} of its profile is missing")
    return {name: total.to(first[name].dtype) for name, total in sums.items()}


def _snapshot(file: Path, key: str, own: Averages, asked: str) -> Averages:
    try:
        found = load(file, key)
        if _shapes(found) != _shapes(own):
            raise storage.Damaged("it contains other averages")
    except storage.Damaged as error:
        raise UserError(
            f"{asked}: {file} is needed, but {error}; restore the snapshot that its run wrote, or use weights=ema"
        ) from error
    return found


def _shapes(averages: Averages) -> list[Any]:
    return [(length, [(name, value.shape) for name, value in each.items()]) for length, each in averages.items()]


def _saved(contents: Mapping[str, Any], asked: str) -> Mapping[str, Any]:
    """The state in the checkpoint, unchecked. Raises UserError if there is none."""
    callbacks = contents.get("callbacks")
    state = callbacks.get(STATE) if isinstance(callbacks, Mapping) else None
    if not isinstance(state, Mapping):
        raise UserError(
            f"{asked}: an average of another length is computed from a run's averages, and this file contains none; "
            "use a run trained with ema=power, or weights=ema or weights=raw"
        )
    return state
