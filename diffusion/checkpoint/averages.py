"""Snapshots of a run's power-function averages, and post-hoc weights of any other length computed from them.

checkpoints/averages/step-00001234.pt, written like a checkpoint (`storage`), contains the averages after this step and
their number of updates. A run that is resumed removes those of later steps. The mathematics is in
`diffusion.process.averaging`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.checkpoint import storage
from diffusion.console import console, count
from diffusion.errors import UserError
from diffusion.process.averaging import Profile, coefficients, gamma_of

FOLDER = "averages"  # subfolder of the checkpoints' folder
STATE = "PowerEMA"  # key of the averages in a checkpoint's callbacks
WORST = 0.25  # largest missing part of a profile, in the L² norm


def snapshot(checkpoints: Path, step: int) -> Path:
    """The snapshot file of a step, in a folder of checkpoints."""
    return checkpoints / FOLDER / f"step-{step:08d}.pt"


def snapshots(checkpoints: Path) -> dict[int, Path]:
    """step -> file, for all snapshots in a folder of checkpoints, in order."""
    return {int(file.stem[5:]): file for file in sorted((checkpoints / FOLDER).glob("step-*[0-9].pt"))}


def of_length(contents: Mapping[str, Any], path: Path, length: float) -> dict[str, Tensor]:
    """The parameters averaged with length σ_rel, at the step of the checkpoint `path`, by name in the module.

    A tracked length is in the checkpoint itself. Any other length is a linear combination, in float64, of the averages
    in the checkpoint and in the earlier snapshots. Raises UserError if that is impossible or too inaccurate.
    """
    asked, wanted = f"ckpt={path}: weights={length:g}", gamma_of(length)
    state = contents.get("callbacks", {}).get(STATE)
    if state is None:
        raise UserError(f"{asked}: only a run with ema=power has averages of other lengths; use weights=ema or raw")
    own: Mapping[str, Mapping[str, Tensor]] = state["averages"]  # σ_rel -> name in the module -> averaged parameter
    if (tracked := own.get(repr(float(length)))) is not None:
        return dict(tracked)
    held = {}  # by number of updates
    for step, file in snapshots(path.parent).items():
        if step < contents["global_step"]:
            found = storage.load(file, mapped=True)
            held[found["updates"]] = found["averages"]
    held[state["updates"]] = own
    profiles = [Profile(gamma_of(float(each)), n) for n in held for each in own]
    factors, missing = coefficients(profiles, Profile(wanted, state["updates"]))
    used = f"{count(len(profiles), 'average')} at {count(len(held), 'step')}"
    if not missing <= WORST:
        raise UserError(
            f"{asked}: {missing:.0%} of its profile would be missing (at most {WORST:.0%} may be) from a combination "
            f"of {used}; use a length closer to {' and '.join(own)}, or train with a larger ema.snapshots"
        )
    first = next(iter(own.values()))
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in first.items()}
    parts = [averages[each] for averages in held.values() for each in own]
    for factor, part in zip(factors.tolist(), parts, strict=True):
        for name, total in sums.items():
            total.add_(part[name].double(), alpha=factor)
    console.print(f"weights={length:g}: combined from {used}; {missing:.1%} of its profile is missing")
    return {name: total.to(first[name].dtype) for name, total in sums.items()}
