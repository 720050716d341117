"""Memorization: samples that are suspiciously close to a training image, compared with held-out photographs.

A function f embeds an image as its miniature of 8×8 pixels, or as an extractor's features. A sample x is compared in
several views v, such as x and its mirror image. With y_1, y_2, … the training images ordered by their distance from x,
the ratio

    r(x) = d(x, y_1) / mean_{k ≤ 50} d(x, y_k),    d(x, y) = min_v |f(v(x)) − f(y)|

is near 0 for a copy and near 1 for an image that resembles many others. Without the division, a plain sky, which is
close to many images, would look like a copy (Carlini et al. 2023, arXiv:2301.13188, section 4.2). Held-out photographs
are not copies, so they calibrate the threshold. With the ratios r_(1) ≤ … ≤ r_(m) of m of them, a sample is flagged if

    r(x) < r_(k),   k = ⌊rate · (m + 1)⌋.

A photograph from the distribution of the held-out ones is flagged with probability at most k/(m + 1) ≤ rate, whatever
the distribution and the embedding (conformal prediction: Vovk et al. 2005). This rate is an average over sets of
held-out photographs. For one set it is random, with distribution Beta(k, m + 1 − k), so without copies, the number X of
flagged samples among n is beta-binomial. There are more than by chance if P(X ≥ x) is small for the x that were found.

Held-out photographs that repeat training images would lower the threshold, so they are excluded from the m. Samples
that repeat training images are counted separately, flagged or not: a few copies hardly change the share, and a copy of
an image that has many near-duplicates in the training set is not flagged: all y_k are near.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import scipy  # its submodules are imported on first use
import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.nearest import miniature, neighbours, repeats, shifted

NEIGHBOURS = 50
SIDE = 8  # pixels per side of a miniature, which JPEG compression and noise hardly change


class Audit(NamedTuple):
    """Which of n samples are suspected copies."""

    ratio: Tensor  # (n,) r(x)
    nearest: Tensor  # (n,) the training image y_1
    repeats: Tensor  # (n,) bool: which are near-duplicates of a training image, flagged or not
    threshold: float  # the k-th smallest ratio of the m held-out photographs
    k: int
    m: int

    @property
    def flagged(self) -> Tensor:
        """(n,) bool."""
        return self.ratio < self.threshold

    @property
    def p_value(self) -> float:
        """The probability that chance alone flags as many samples: P(X ≥ x), X ~ BetaBinomial(n, k, m + 1 − k)."""
        by_chance = scipy.stats.betabinom(len(self.ratio), self.k, self.m + 1 - self.k)
        return max(0.0, float(by_chance.sf(int(self.flagged.sum()) - 1)))

    def interval(self) -> tuple[float, float]:
        """The exact 95% interval of the share of flagged samples, for the given threshold (Clopper and Pearson)."""
        low, high = scipy.stats.binomtest(int(self.flagged.sum()), len(self.ratio)).proportion_ci(0.95, method="exact")
        return float(low), float(high)

    def closest(self, count: int) -> list[int]:
        """The most suspicious samples, repeats first, then by ratio."""
        ranked = sorted(zip((~self.repeats).tolist(), self.ratio.tolist(), range(len(self.ratio)), strict=True))
        return [i for _, _, i in ranked[:count]]


def audit(
    samples: Tensor,
    train: Tensor,
    held_out: Tensor,
    embed: Callable[[Tensor], Tensor] = lambda images: miniature(images, SIDE),
    views: Callable[[Tensor], list[Tensor]] = shifted,
    rate: float = 0.01,
) -> Audit:
    """Suspected copies of `train` among `samples`, calibrated by `held_out`; all uint8 (·, C, H, W).

    At least 2 images of `train` are needed. Raises UserError if no image of `held_out` differs from them.

    Args:
        embed: images (B, C, H, W) -> (B, D).
        views: images -> the same images in each view, the unchanged ones first.
        rate: the highest rate at which samples that are not copies may be flagged. With too few held-out photographs
            for it, the lowest possible rate, 1/(m + 1), is used. The actual rate is k/(m + 1).
    """
    known = embed(train)

    def ratio(images: Tensor) -> tuple[Tensor, Tensor]:
        distance, index = neighbours(torch.stack([embed(view) for view in views(images)]), known, NEIGHBOURS)
        return distance[:, 0] / distance.mean(dim=1).clamp(min=1e-12), index[:, 0]

    distinct = held_out[~repeats(held_out, train)]
    m = len(distinct)
    if m == 0:
        raise UserError("audit: all held-out images repeat training images, so none can calibrate it; remove the audit")
    k = max(1, math.floor(rate * (m + 1) + 1e-9))
    threshold = float(ratio(distinct)[0].sort().values[k - 1])
    return Audit(*ratio(samples), repeats(samples, train), threshold, k, m)
