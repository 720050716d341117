"""Snapshots of a run's power-function averages, and post-hoc weights of any other length computed from them.

checkpoints/averages/step-00001234.pt, written like a checkpoint (`storage`), contains the averages at a step. A
checkpoint contains those of its own step, and lists the earlier snapshots with their hashes: a file of another run, or
of steps that were repeated later, is never mixed in. The mathematics is in `diffusion.process.averaging`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from diffusion.checkpoint import storage
from diffusion.console import console, count
from diffusion.errors import UserError
from diffusion.metric.digest import digest
from diffusion.process.averaging import Profile, coefficients, gamma_of

FOLDER = "averages"  # subfolder of the checkpoints' folder
STATE = "PowerEMA"  # key of the averages in a checkpoint's callbacks
WORST = 0.25  # largest missing part of a profile, in the L² norm
Averages = Mapping[str, Mapping[str, Tensor]]  # σ_rel -> name in the module -> averaged parameter
Listed = Mapping[int, tuple[int, str]]  # step -> updates, hash


class State(NamedTuple):
    """The state in a checkpoint: its averages, their number of optimizer steps, and the earlier snapshots."""

    averages: Averages
    updates: int
    snapshots: Listed


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
    found = storage.load(path).get("averages")
    if not _are_averages(found):
        raise storage.Damaged("it is not a snapshot")
    if hash_of(found) != expected:
        raise storage.Damaged("it belongs to another run, or to steps that were repeated")
    return found


def hash_of(averages: Averages) -> str:
    """The first 16 digits of the SHA-256 of the averages."""
    return digest({f"{length} {name}": value for length, each in averages.items() for name, value in each.items()})[:16]


def of_length(contents: Mapping[str, Any], path: Path, length: float) -> dict[str, Tensor]:
    """The parameters averaged with length σ_rel, at the step of the checkpoint `path`, by name in the module.

    A tracked length is in the checkpoint itself. Any other length is a linear combination, in float64, of the averages
    in the checkpoint and in the earlier snapshots. Raises UserError if that is impossible or too inaccurate.
    """
    asked = f"ckpt={path}: weights={length:g}"
    gamma, state = gamma_of(length), _state(contents, asked)
    own, listed = state.averages, {n: (step, key) for step, (n, key) in state.snapshots.items() if n < state.updates}
    if (tracked := own.get(repr(float(length)))) is not None:
        return dict(tracked)
    times = [*listed, state.updates]
    x, missing = coefficients(
        [Profile(gamma_of(float(each)), n) for n in times for each in own], Profile(gamma, state.updates)
    )
    found = f"{count(len(x), 'average')} at {count(len(times), 'step')}"
    if missing > WORST:
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


def _state(contents: Mapping[str, Any], asked: str) -> State:
    """The state in the checkpoint. Raises UserError if it is missing or malformed."""
    callbacks = contents.get("callbacks")
    state = callbacks.get(STATE) if isinstance(callbacks, Mapping) else None
    if not isinstance(state, Mapping):
        raise UserError(
            f"{asked}: an average of another length is computed from a run's averages, and this file contains none; "
            "use a run trained with ema=power, or weights=ema or weights=raw"
        )
    averages, updates, listed = state.get("averages"), state.get("updates"), state.get("snapshots")
    if not (type(updates) is int and updates > 0 and _are_averages(averages) and _are_listed(listed)):
        raise UserError(f"{asked}: not a checkpoint of diffusion.train (its averages are malformed); use one of those")
    return State(averages, updates, listed)


def _are_listed(value: Any) -> TypeGuard[Listed]:
    """Whether `value` has the structure of `Listed`."""
    return isinstance(value, Mapping) and all(
        type(step) is int
        and isinstance(each, list | tuple)
        and [type(part) for part in each] == [int, str]
        and each[0] > 0
        for step, each in value.items()
    )


def _are_averages(value: Any) -> TypeGuard[Averages]:
    """Whether `value` has the structure of `Averages`, with the same parameters in each."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(each, Mapping) for each in value.values()):
        return False
    items = [item for each in value.values() for item in each.items()]
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in items):
        return False
    shapes = [each for _, each in _shapes(value)]
    return all(each == shapes[0] for each in shapes) and all(map(_is_length, value))


def _is_length(text: Any) -> bool:
    try:
        return isinstance(text, str) and repr(float(text)) == text
    except ValueError:
        return False
