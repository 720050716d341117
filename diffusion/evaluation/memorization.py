"""Memorization: samples that are suspiciously close to a training image, compared with held-out photographs.

f(x) is the miniature of 8×8 pixels of an image x, which is compared in 18 views v: mirrored, and shifted by one pixel.
With y_1, y_2, … the training images ordered by their distance from x, a sample is flagged if its ratio (Carlini et al.
2023, arXiv:2301.13188, section 4.2) is below a threshold:

    r(x) = d(x, y_1) / mean_{k ≤ 50} d(x, y_k) < r_(k),    d(x, y) = min_v |f(v(x)) − f(y)|,    k = ⌊rate · (m + 1)⌋.

Here r_(1) ≤ … ≤ r_(m) are the ratios of the m held-out photographs that repeat no training image. A photograph from
their distribution is flagged with a probability of at most k/(m + 1) ≤ rate (conformal prediction: Vovk et al. 2005),
which is Beta(k, m + 1 − k) distributed for a given threshold. Samples that repeat training images are counted
separately, flagged or not, because a copy of an image that has many near-duplicates is not flagged. If R held-out
photographs of all M repeat some, as plain skies do, a photograph does with a probability of about (R + 1)/(M + 1).
"""

import math
from pathlib import Path

import scipy  # its submodules are imported on first use
import torch
from torch import Tensor

from diffusion.console import console, count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.metric.record import Reference, Score
from diffusion.nearest import miniature, near_duplicates, neighbours, views
from diffusion.pixels import grid, save_png

NEIGHBOURS = 50
SIDE = 8  # pixels per side of a miniature, which JPEG compression and noise hardly change
SHOWN = 10  # pairs in the figure


def ratios(images: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """r(x) of each of n images, and its training image y_1, both (n,); all images are uint8 (·, C, H, W)."""
    seen = torch.stack([miniature(view, SIDE) for view in views(images, shift=1)])
    distance, index = neighbours(seen, miniature(train, SIDE), NEIGHBOURS)
    return distance[:, 0] / distance.mean(dim=1).clamp(min=1e-12), index[:, 0]


def calibrated(train: Tensor, held_out: Tensor, rate: float = 0.01) -> tuple[float, float, float, float]:
    """The threshold r_(k) by held-out images, k/(m + 1), the chance, and (R + 1)/(M + 1).

    With a probability of 97.5%, the share of other photographs below the threshold is less than the chance. Raises
    UserError if all held-out images repeat training images.

    Args:
        rate: the highest rate at which samples that are not copies may be flagged; 1/(m + 1) if that is higher.
    """
    distinct = held_out[near_duplicates(held_out, train, shift=1) < 0]
    m = len(distinct)
    if m == 0:
        raise UserError("audit: all held-out images repeat training images, so none can calibrate it; remove the audit")
    k = max(1, math.floor(rate * (m + 1) + 1e-9))
    threshold = float(ratios(distinct, train)[0].sort().values[k - 1])
    chance, repeating = float(scipy.stats.beta.ppf(0.975, k, m + 1 - k)), len(held_out) - m
    return threshold, k / (m + 1), chance, (repeating + 1) / (len(held_out) + 1)


def copies(images: Tensor, data: ImageData, folder: Path) -> Score:
    """The score of copies among `images`, uint8 (n, C, H, W), printed; figures/copies.png shows the closest pairs.

    Its interval is the exact one for the given threshold (Clopper and Pearson). The closest pairs are near-duplicates
    first, then by ratio.
    """
    train, n = data.splits["train"], len(images)
    threshold, rate, chance, repeating = calibrated(train.images, data.splits["val"].images)
    ratio, nearest = ratios(images, train.images)
    repeated = near_duplicates(images, train.images, shift=1) >= 0
    flagged, repeats = int((ratio < threshold).sum()), int(repeated.sum())
    low, high = map(float, scipy.stats.binomtest(flagged, n).proportion_ci(0.95, method="exact"))
    closest = sorted(range(n), key=lambda i: (not repeated[i], float(ratio[i])))[:SHOWN]
    shown = [round(float(ratio[i]), 4) for i in closest]
    both = torch.cat([images[closest], train.images[nearest[closest]]])
    save_png(grid(both, len(closest), large=True), folder / "figures/copies.png")
    pairs = [{"sample": i, "train": train.names[nearest[i]], "ratio": r} for i, r in zip(closest, shown, strict=True)]
    sign = "see figures/copies.png" if repeats or flagged / n > chance else "no sign of copying"
    console.print(
        f"copies: {flagged} of {n} samples suspected ({low:.1%} to {high:.1%}; by chance up to {chance:.1%}), "
        f"{count(repeats, 'near-duplicate')} of training images: {sign}"
    )
    return Score(
        "copies", flagged / n, n, reference=Reference("train", len(train), train.key), low=low, high=high, level=0.95,
        features="pixels", resize="8x8 means in 18 views", resolution="x".join(map(str, images.shape[-2:])),
        settings={"rate": rate},
        source={
            "flagged": flagged, "repeats": repeats, "chance": chance, "repeating": repeating, "closest": pairs,
        },
    )  # fmt: skip
