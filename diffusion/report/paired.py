"""`study.stop=decided`: a sweep ends the comparison of a recipe with its first one as soon as a test has decided."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from diffusion.config.build import flat
from diffusion.errors import UserError, shown
from diffusion.report.numbers import plus_minus
from diffusion.report.race import LEAST, LEVEL
from diffusion.runs.folder import jobs_of, measures


def half(x: Sequence[float]) -> float:
    """Half the interval of the mean of paired differences, at this look: look k, at LEAST + k − 1, has LEVEL/2ᵏ.

    These levels add up to LEVEL, so equal recipes are told apart with at most that probability, however often one looks.
    """
    level = LEVEL / 2 ** (len(x) - LEAST + 1)
    return float(stats.t.isf(level / 2, len(x) - 1) * np.std(x, ddof=1) / math.sqrt(len(x)))


def decided(x: Sequence[float]) -> str:
    """What the first look says that shows a mean of paired differences other than 0; "" without one."""
    looks = (x[:n] for n in range(LEAST, len(x) + 1))
    found = next((each for each in looks if abs(np.mean(each)) > half(each)), None)
    return f"{plus_minus(float(np.mean(found)), half(found))} after {len(found)} seeds" if found else ""


def needless(settings: Mapping[str, Any], folder: Path) -> str:
    """Why a job of a sweep in `folder`, with these settings, would add nothing to what is decided; "" if it would.

    Each recipe is compared with the first one of the sweep, by seeds that are complete for both. A run of the first
    recipe adds nothing if all comparisons are decided. Raises UserError for errors of different tasks.
    """
    score, mine = settings["sweep"]["score"], recipe(settings)
    if not isinstance(score, str):
        raise UserError(f"sweep.score={shown(score)}: study.stop=decided compares by one score; name one")
    found: dict[tuple[Any, ...], dict[int, float]] = {}
    for run in [run for run in jobs_of(folder.parent) if run.state == "complete"]:
        found.setdefault(recipe(run.config), {})[run.config["seed"]] = run.info["result"]
    if not found:
        return ""
    first, *others = found
    different = sorted(key for key, _ in {*first} ^ {*mine} if measures(key))
    if different and "mse" in score:
        raise UserError(f"sweep.score={score}: not comparable if {different[0]} differs; use a score of samples")
    others = others if mine == first else [mine] if mine in found else []
    x = [[found[each][seed] - found[first][seed] for seed in found[each] if seed in found[first]] for each in others]
    said = [decided(each) for each in x]
    return f"{score} differs from that of the first recipe by {said[-1]}" if said and all(said) else ""


def recipe(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The settings, without seeds."""
    every = {key: shown(value) for key, value in flat({**config, "ckpt": None}).items()}
    return tuple(sorted((key, value) for key, value in every.items() if key.rpartition(".")[2] != "seed"))
