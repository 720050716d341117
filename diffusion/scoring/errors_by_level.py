"""Where the loss of a network is: its errors by noise level beside those of the best denoiser of its training images.

Training images and as many held-out images have the same noises, in pairs, at each level. All errors are squared errors
of x0 per dimension. The intervals are those of `metric.denoising`, so wide that those of all levels hold together with
95%. Augmentation and crops of the training are not counted. Without the photograph of an image, the best denoiser needs
another photograph, of the same label if there are labels; images that have none are left out of `best` and `behind`.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.base.console import console, count, duration, track
from diffusion.base.files import write_table
from diffusion.config.build import make
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.findings.underfitting import sentence
from diffusion.metric.denoising import FrozenGrid, mean_and_error, numbered
from diffusion.metric.score import draw
from diffusion.process import grid
from diffusion.process.denoiser import Denoiser, diffuse
from diffusion.process.floor import DRAWS, EXACT, Atoms, levels_at_once, posterior
from diffusion.process.weighting import unit
from diffusion.randomness import real_dtype
from diffusion.runs.folder import FLOOR

NAMES = "floor", "best", "train", "above", "behind", "held_out"  # see docs/numbers.md
COMPARED = "best", "behind"  # of the images that have another photograph
CONDITIONAL = "floor: given a condition, the best denoiser is another, which is not computed; measure a model without"
LEVELS = 0.02, 20.0  # the least and the largest sigma/alpha, if the schedule has them


@torch.no_grad()
def measure(denoiser: Denoiser, weighting: Any, data: ImageData, folder: Path, n: int = 256, levels: int = 13) -> None:
    """Write floor.csv, with a row per noise level, and print what it shows.

    `weighting` is the configuration of the weights of the loss; None: 1. Raises UserError without held-out images.
    """
    schedule, train, val, start = denoiser.schedule.on_cpu(), data.splits["train"], data.splits["val"], time.monotonic()
    inside = data.kind.inside
    if (n := min(n, len(train), len(val))) == 0:
        raise UserError("floor: there are no held-out images to compare with; set data.val")
    t = grid.log_snr(schedule, levels, *LEVELS)[:-1].flip(0)
    t = t if schedule.steps is None else ((t * schedule.steps).ceil() / schedule.steps).unique()
    atoms, sigma, sources = Atoms(train.images, data.flip, unit=inside), schedule.level(t), numbered(train.sources)
    seen, unseen = (draw(torch.arange(len(split)), n) for split in (train, val))
    labels = [split.labels if getattr(denoiser.network, "classes", 0) else None for split in (train, val)]
    found: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    comparable = []
    batches = torch.arange(n).split(levels_at_once(atoms, len(t)))
    for index in track(batches, "floor", len(batches), "batch"):
        (x, of_x), (z, of_z) = (
            (inside(split.images[chosen[index]]), None if of is None else of[chosen[index]])
            for split, chosen, of in ((train, seen, labels[0]), (val, unseen, labels[1]))
        )
        eps, others = FrozenGrid().noise(index, 0, x), ~atoms.alike(sources[seen[index]], sources)
        same = torch.ones_like(others) if of_x is None or labels[0] is None else atoms.alike(of_x, labels[0])
        others &= same
        comparable.append(others.any(dim=1))
        others |= ~comparable[-1][:, None]  # whatever: it is left out below
        whole, rest = (posterior(atoms, x, eps, sigma, index, allowed) for allowed in (same, others))
        made = estimates(denoiser, x, eps, t, of_x)
        found["floor"].append(whole.variance)
        found["best"].append(apart(x, rest.mean) - rest.excess)
        found["train"].append(apart(x, made))
        found["above"].append(apart(made, whole.mean) - whole.excess)
        # the mean of train − best, with less variance: that of train − |x − E[x0 | x_t]|² is `above`
        found["behind"].append(found["above"][-1] - found["best"][-1] + apart(x, whole.mean) - whole.excess)
        found["held_out"].append(apart(z, estimates(denoiser, z, eps, t, of_z)))
    errors = {name: torch.cat(x, dim=1) for name, x in found.items()}
    both = [sources[seen], numbered(val.sources)[unseen]]
    errors["gap"] = errors["held_out"] - errors["train"]
    clusters = {"held_out": both[1:], "gap": both}
    kept = torch.cat(comparable)
    (_, q), _ = denoiser.prediction.solve(schedule, t)
    weight = (make(weighting, "objective.weighting") if weighting else unit)(schedule, denoiser.prediction, t) / q**2
    rows = []
    for k, numbers in enumerate(torch.stack([sigma, t, weight], dim=1).tolist()):
        rows.append(dict(zip(("level", "t", "weight"), numbers, strict=True)) | {"images": len(atoms), "noisy": n})
        rows[k]["compared"] = int(kept.sum())
        for name, x in errors.items():
            groups, used = torch.stack(clusters.get(name, both[:1])), kept | (name not in COMPARED)
            rows[k][name], _, rows[k][f"{name}_half"] = mean_and_error(x[k, used], groups[:, used], len(t))
    write_table(folder / FLOOR, rows)
    how = f", {DRAWS} draws from each posterior" if len(atoms) > EXACT else ""
    mirrored = " with mirror images" if data.flip else ""
    console.print(
        f"floor of {count(len(atoms), 'image')}{mirrored}: 2 × {n} noisy images at {len(t)} levels{how}, "
        f"in {duration(time.monotonic() - start)}\n{sentence(rows)}"
    )


def estimates(denoiser: Denoiser, x0: Tensor, eps: Tensor, t: Tensor, classes: Tensor | None) -> Tensor:
    """The network's x0 (K, B, D), on the CPU, for images x0 (B, C, H, W) with the noise eps at times t (K,)."""
    device = next(denoiser.parameters()).device
    given = {} if classes is None else {"classes": classes.to(device)}
    x0, eps, found = x0.to(device), eps.to(device), []
    for each in t:
        times = each.to(device, real_dtype(device)).expand(len(x0))
        found.append(denoiser(diffuse(denoiser.schedule, x0, eps, times), times, **given).x0.flatten(1).cpu())
    return torch.stack(found)


def apart(a: Tensor, b: Tensor) -> Tensor:
    """The squared distances per dimension of `a` (B, …) or (K, B, D) from `b` (K, B, D), (K, B)."""
    return (a.view(-1, *b.shape[1:]) - b).double().square().mean(dim=2)
