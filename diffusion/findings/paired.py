"""`study.stop=decided`: a sweep ends the comparison of a recipe with its first one as soon as a test has decided."""

from collections.abc import Sequence
from pathlib import Path

from scipy import stats

from diffusion.config.build import flat
from diffusion.config.schema import Train
from diffusion.errors import UserError
from diffusion.findings.numbers import plus_minus
from diffusion.findings.race import LEAST, LEVEL
from diffusion.runs.folder import is_run, jobs_of, measures


def decided(x: Sequence[float]) -> str:
    """What the first look says that shows a mean of paired differences other than 0; "" without one.

    Look k, at LEAST + k − 1 seeds, has the level LEVEL/2ᵏ: together at most LEVEL, however often one looks.
    """
    for n in range(LEAST, len(x) + 1):
        low, high = stats.t.interval(1 - LEVEL / 2 ** (n - LEAST + 1), n - 1, stats.tmean(x[:n]), stats.sem(x[:n]))
        if low > 0 or high < 0:
            return f"{plus_minus((low + high) / 2, (high - low) / 2)} after {n} seeds"
    return ""


def needless(settings: Train, folder: Path) -> str:
    """Why the job in `folder` of a sweep would add nothing, and how many were saved so far; "" if it would.

    Each recipe is compared with the first one by the seeds of both, which goes on until all comparisons are decided.
    """
    runs, score = [run for run in jobs_of(folder.parent) if run.state == "complete"], settings.sweep.score
    every = [flat(config).items() for config in (*(run.config for run in runs), settings.model_dump(mode="json"))]
    *recipes, mine = [frozenset((k, str(x)) for k, x in each if not k.endswith(("seed", "ckpt"))) for each in every]
    found: dict[frozenset[tuple[str, str]], dict[int, float]] = {each: {} for each in recipes}
    for run, each in zip(runs, recipes, strict=True):
        found[each][run.config["seed"]] = run.info["result"]
    first, *others = found or {mine: {}}
    if "mse" in score and (other := [key for key, _ in sorted(first ^ mine) if measures(key)]):
        raise UserError(f"sweep.score={score}: not comparable if {other[0]} differs; use a score of samples")
    others = others if mine == first else [mine] if mine in found else []
    said = [decided([found[each][k] - found[first][k] for k in found[each] if k in found[first]]) for each in others]
    saved = sum(not is_run(each.parent) for each in folder.parent.glob("*/.hydra"))
    words = f"{score} differs from the first recipe's by {''.join(said[-1:])}; runs saved so far: {saved}"
    return words if said and all(said) and not is_run(folder) else ""
