"""Memorization: samples that are suspiciously close to a training image, compared with held-out photographs.

A function f embeds an image as its miniature of 8×8 pixels, or as an extractor's features. A sample x is compared in
several views v: unchanged and mirrored; for the miniature, also with the image shifted by −1, 0 or +1 pixel down and
right, with replicated edges. With y_1, y_2, … the training images ordered by their distance from x, the ratio

    r(x) = d(x, y_1) / mean_{k ≤ 50} d(x, y_k),    d(x, y) = min_v |f(v(x)) − f(y)|

is near 0 for a copy and near 1 for an image that resembles many others. Without the division, a plain sky, which is
close to many images, would look like a copy (Carlini et al. 2023, arXiv:2301.13188, section 4.2). Held-out photographs
are not copies, so they calibrate the threshold. With the ratios r_(1) ≤ … ≤ r_(m) of m of them, a sample is flagged if

    r(x) < r_(k),   k = ⌊rate · (m + 1)⌋.

A photograph from the distribution of the held-out ones is flagged with probability at most k/(m + 1) ≤ rate, whatever
the distribution and the embedding (conformal prediction: Vovk et al. 2005). Tiles of other photographs do not have
exactly that distribution: on average, 1.1% of the bundled tiles are flagged if k/(m + 1) is 0.8%. Several embeddings
share the rate equally, and a sample flagged by any of them is a suspected copy.

This rate is an average over sets of held-out photographs. For one set, the rate is random, with distribution
Beta(k, m + 1 − k), so without copies, the number X of flagged samples among n is beta-binomial. More of them are
flagged than by chance if P(X ≥ x) is small for the x that were found (`Audit.p_value`).

Held-out photographs that repeat training images, by a given criterion, would lower the threshold, so they are excluded
from the m. Samples that meet the same criterion are counted separately, flagged or not: a few copies hardly change the
share, and a copy of an image that has many near-duplicates in the training set is not flagged: all y_k are near.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import product

import scipy  # its submodules are imported on first use
import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 50
ROWS = 256  # samples whose distances are in memory at a time
SIDE = 8  # pixels per side of a miniature, which JPEG compression and noise hardly change

Embed = Callable[[Tensor], Tensor]
"""uint8 (B, C, H, W) -> (B, D)."""


@dataclass(frozen=True)
class View:
    """Images (B, C, H, W), shifted by `down` and `right` pixels with replicated edges, then mirrored or not."""

    mirrored: bool = False
    down: int = 0
    right: int = 0

    def __call__(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        rows = (torch.arange(height) - self.down).clamp(0, height - 1)
        columns = (torch.arange(width) - self.right).clamp(0, width - 1)
        return images[..., rows[:, None], columns.flip(0) if self.mirrored else columns]


EITHER_WAY = (View(), View(mirrored=True))
SHIFTED = tuple(View(*v) for v in product((False, True), (0, -1, 1), (0, -1, 1)))  # no shift is first: it wins ties


@dataclass(frozen=True)
class Embedding:
    """The embedding f, and the views in which a sample is compared."""

    embed: Embed
    views: tuple[View, ...] = EITHER_WAY

    def of_views(self, images: Tensor) -> Tensor:
        """The embeddings of all views, (V, B, D)."""
        return torch.stack([self.embed(view(images)) for view in self.views])


def miniature(images: Tensor) -> Tensor:
    """The means of 8×8 blocks (fewer for a smaller image), (B, C·8·8) float32 in 0 … 255."""
    side = min(SIDE, *images.shape[-2:])
    return torch.cat([F.adaptive_avg_pool2d(x.float(), side).flatten(1) for x in images.split(ROWS)])


# At 32×32 a pixel is a quarter of a block, so only shifted views find shifted copies.
PIXELS = Embedding(miniature, SHIFTED)


@dataclass(frozen=True)
class Nearest:
    """For each of n images: the ratio r(x), the index of y_1, and the index of the view nearest to it; each (n,)."""

    ratio: Tensor
    index: Tensor
    view: Tensor


@dataclass(frozen=True)
class Audit:
    """Which of n samples are suspected copies."""

    flagged: Tensor  # (n,) bool
    repeats: Tensor  # (n,) bool: which are near-duplicates of a training image, flagged or not
    nearest: dict[str, Nearest]  # by embedding
    thresholds: dict[str, float]
    k: int  # the threshold of each embedding is the k-th smallest ratio of the m held-out photographs
    m: int
    left_out: int  # held-out photographs that repeat a training image, and are not used for the threshold

    @property
    def n(self) -> int:
        return len(self.flagged)

    @property
    def rate(self) -> float:
        """The highest rate at which held-out photographs would be flagged, on average over sets of m of them."""
        return len(self.thresholds) * self.k / (self.m + 1)

    @property
    def p_value(self) -> float:
        """The probability that chance alone flags as many samples: P(X ≥ x), X ~ BetaBinomial(n, k, m + 1 − k).

        For several embeddings: the smallest of their probabilities times their number (Bonferroni).
        """
        counts = [int((self.nearest[name].ratio < threshold).sum()) for name, threshold in self.thresholds.items()]
        return min(1.0, len(counts) * chance(max(counts), self.n, self.k, self.m))

    @property
    def share(self) -> float:
        """The share of flagged samples."""
        return float(self.flagged.double().mean())

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The exact Clopper-Pearson interval of the share, for the given thresholds."""
        low, high = scipy.stats.binomtest(int(self.flagged.sum()), self.n).proportion_ci(level, method="exact")
        return float(low), float(high)

    def closest(self, count: int) -> list[tuple[int, str]]:
        """The most suspicious samples, repeats first, each with the embedding that makes it suspicious.

        Ratios are compared in units of their embedding's threshold.
        """
        names = list(self.nearest)
        units = torch.stack([self.nearest[name].ratio / max(self.thresholds[name], 1e-12) for name in names])
        least, by = units.min(dim=0)
        ranked = sorted(zip((~self.repeats).tolist(), least.tolist(), range(self.n), strict=True))
        return [(i, names[int(by[i])]) for _, _, i in ranked[:count]]


def chance(flagged: int, n: int, k: int, m: int) -> float:
    """P(X ≥ flagged) for the number X of n photographs below the k-th smallest ratio of m others."""
    return max(0.0, float(scipy.stats.betabinom(n, k, m + 1 - k).sf(flagged - 1)))


def nearest(images: Tensor, train: Tensor) -> Nearest:
    """r(x) of each image.

    Args:
        images: their embeddings in each view (V, n, D).
        train: the embeddings of the training images (N, D).
    """
    centre = train.mean(dim=0)
    train = train - centre  # keep values small: |a|² + |b|² − 2ab loses digits of large ones
    norms, k = train.square().sum(dim=1), min(NEIGHBOURS, len(train))
    ratios, indices, views = [], [], []
    for rows in torch.arange(images.shape[1]).split(ROWS):
        x = images[:, rows] - centre  # (V, b, D)
        squared = (norms - 2 * v @ train.T + v.square().sum(dim=1, keepdim=True) for v in x)
        found = reduce(torch.minimum, squared).topk(k, largest=False).indices  # (b, k)
        near = train[found]  # (b, k, D)
        distance, view = torch.stack([(v[:, None] - near).norm(dim=2) for v in x]).min(dim=0)  # (b, k)
        first, by = distance.min(dim=1, keepdim=True)
        ratios.append(first[:, 0] / distance.mean(dim=1).clamp(min=1e-12))
        indices.append(found.gather(1, by)[:, 0])
        views.append(view.gather(1, by)[:, 0])
    return Nearest(torch.cat(ratios).cpu(), torch.cat(indices).cpu(), torch.cat(views).cpu())


def audit(
    samples: Tensor,
    train: Tensor,
    held_out: Tensor,
    embeddings: Mapping[str, Embedding],
    repeats: Callable[[Tensor], Tensor],
    rate: float = 0.01,
) -> Audit:
    """Suspected copies of `train` among `samples`, calibrated by `held_out`; all uint8 (·, C, H, W).

    Raises ValueError for fewer than 2 training images, without embeddings, or if no held-out image differs from them.

    Args:
        embeddings: at least one, by name.
        repeats: images (B, C, H, W) -> (B,) bool, whether each is a near-duplicate of a training image.
        rate: the highest rate at which samples that are not copies may be flagged. With too few held-out
            photographs for it, the lowest possible rate, len(embeddings)/(m + 1), is used. The result contains the
            actual rate.
    """
    if len(train) < 2 or len(held_out) < 1 or not embeddings:
        raise ValueError(f"audit: {len(train)} training and {len(held_out)} held-out images; expected at least 2 and 1")
    distinct = ~repeats(held_out)
    if not distinct.any():
        raise ValueError(f"audit: all {len(held_out)} held-out images repeat training images; expected 1 that does not")
    m = int(distinct.sum())
    k = max(1, math.floor(rate / len(embeddings) * (m + 1) + 1e-9))
    flagged, found, thresholds = torch.zeros(len(samples), dtype=torch.bool), {}, {}
    for name, embedding in embeddings.items():
        known = embedding.embed(train)
        ratios = nearest(embedding.of_views(held_out), known).ratio[distinct]
        found[name] = nearest(embedding.of_views(samples), known)
        thresholds[name] = float(ratios.sort().values[k - 1])
        flagged |= found[name].ratio < thresholds[name]
    return Audit(flagged, repeats(samples), found, thresholds, k, m, len(held_out) - m)
