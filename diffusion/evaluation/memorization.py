"""Memorization: samples that are suspiciously close to a training image, compared with held-out photographs.

f(x) is the miniature of 8×8 pixels of an image x, which is compared in 18 views v: mirrored, and shifted by one pixel.
With y_1, y_2, … the training images ordered by their distance from x, a sample is flagged if its ratio (Carlini et al.
2023, arXiv:2301.13188, section 4.2) is below a threshold:

    r(x) = d(x, y_1) / mean_{k ≤ 50} d(x, y_k) < r_(k),    d(x, y) = min_v |f(v(x)) − f(y)|,    k = ⌊rate · (m + 1)⌋.

Here r_(1) ≤ … ≤ r_(m) are the ratios of the m held-out photographs that repeat no training image. A photograph from
their distribution is flagged with a probability of at most k/(m + 1) ≤ rate (conformal prediction: Vovk et al. 2005),
which is Beta(k, m + 1 − k) distributed for a given threshold. Samples that repeat training images are counted
separately, flagged or not, because a copy of an image that has many near-duplicates is not flagged.
"""

import math
from pathlib import Path
from typing import NamedTuple

import scipy  # its submodules are imported on first use
import torch
from torch import Tensor

from diffusion.console import console, count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.metric.record import Reference, Score
from diffusion.nearest import miniature, near_duplicates, neighbours, views
from diffusion.report import figures, style

NEIGHBOURS = 50
SIDE = 8  # pixels per side of a miniature, which JPEG compression and noise hardly change
SHOWN = 10  # pairs in the figure


class Audit(NamedTuple):
    """Which of n samples are suspected copies."""

    ratio: Tensor  # (n,) r(x)
    nearest: Tensor  # (n,) the training image y_1
    flagged: Tensor  # (n,) bool: whose ratio is below the threshold
    repeats: Tensor  # (n,) bool: near-duplicates of a training image, flagged or not
    threshold: float
    rate: float  # k/(m + 1)
    chance: float  # with a probability of 97.5%, the share of other photographs below the threshold is less


def audit(samples: Tensor, train: Tensor, held_out: Tensor, rate: float = 0.01) -> Audit:
    """Suspected copies of `train` among `samples`, calibrated by `held_out`; all uint8 (·, C, H, W).

    Raises UserError if no image of `held_out` differs from the training images.

    Args:
        rate: the highest rate at which samples that are not copies may be flagged; 1/(m + 1) if that is higher.
    """
    known = miniature(train, SIDE)

    def ratio(images: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.stack([miniature(view, SIDE) for view in views(images, shift=1)])
        distance, index = neighbours(seen, known, NEIGHBOURS)
        return distance[:, 0] / distance.mean(dim=1).clamp(min=1e-12), index[:, 0]

    distinct = held_out[near_duplicates(held_out, train, shift=1) < 0]
    m = len(distinct)
    if m == 0:
        raise UserError("audit: all held-out images repeat training images, so none can calibrate it; remove the audit")
    k = max(1, math.floor(rate * (m + 1) + 1e-9))
    threshold = float(ratio(distinct)[0].sort().values[k - 1])
    (found, nearest), repeats = ratio(samples), near_duplicates(samples, train, shift=1) >= 0
    chance = float(scipy.stats.beta.ppf(0.975, k, m + 1 - k))
    return Audit(found, nearest, found < threshold, repeats, threshold, k / (m + 1), chance)


def copies(images: Tensor, data: ImageData, folder: Path) -> Score:
    """The score of copies among `images`, uint8 (n, C, H, W), printed; figures/copies.png shows the closest pairs.

    Its interval is the exact one for the given threshold (Clopper and Pearson). The closest pairs are near-duplicates
    first, then by ratio.
    """
    train, n = data.splits["train"], len(images)
    found = audit(images, train.images, data.splits["val"].images)
    flagged, repeats = int(found.flagged.sum()), int(found.repeats.sum())
    low, high = map(float, scipy.stats.binomtest(flagged, n).proportion_ci(0.95, method="exact"))
    closest = sorted(range(n), key=lambda i: (not found.repeats[i], float(found.ratio[i])))[:SHOWN]
    nearest, ratios = found.nearest[closest], [round(float(found.ratio[i]), 4) for i in closest]
    style.save(figures.copies(images[closest], train.images[nearest], ratios), folder / "figures/copies.png")
    sign = "see figures/copies.png" if repeats or low > found.chance else "no sign of copying"
    console.print(
        f"copies: {flagged} of {n} samples suspected ({low:.1%} to {high:.1%}; by chance up to {found.chance:.1%}), "
        f"{count(repeats, 'near-duplicate')} of training images: {sign}"
    )
    pairs = zip(closest, nearest.tolist(), ratios, strict=True)
    shown = [{"sample": i, "train": train.names[j], "ratio": ratio} for i, j, ratio in pairs]
    return Score(
        "copies", flagged / n, n, reference=Reference("train", len(train), train.key), low=low, high=high, level=0.95,
        features="pixels", resize="8x8 means in 18 views", resolution="x".join(map(str, images.shape[-2:])),
        settings={"rate": found.rate},
        source={"flagged": flagged, "repeats": repeats, "chance": found.chance, "closest": shown},
    )  # fmt: skip
