"""Is it learning or copying? Each sample's nearest training image, judged by how near held-out photographs come.

Definitions. An image x is embedded by some f: its miniature of 8×8 pixels, or an extractor's features. With y_1, y_2, …
the training images by distance from x or from its mirror image, whichever is nearer,

    r(x) = |f(x) − f(y_1)| / mean_{k ≤ 50} |f(x) − f(y_k)|

is near 0 for a copy and near 1 for an image like many others; dividing keeps a plain sky, which is near everything,
from looking like a copy (Carlini et al. 2023, arXiv:2301.13188, §4.2). Held-out photographs are no copies, so the
threshold is set by them: with m of them in order r_(1) ≤ … ≤ r_(m), a sample is flagged where

    r(x) < r_(k),   k = ⌊rate · (m + 1)⌋.

A photograph drawn as the held-out ones were is flagged with probability at most k/(m + 1) ≤ rate, whatever the
distribution and the embedding (conformal prediction: Vovk et al. 2005). Several embeddings share the rate equally, and
a sample that any of them flags is a suspected copy. Held-out photographs that repeat training images lower the
threshold: mend the splits first.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor

NEIGHBOURS = 50
ROWS = 256  # samples whose distances are in memory at once
SIDE = 8  # of a miniature: JPEG, noise and a shift by a pixel hardly change it

Embed = Callable[[Tensor], Tensor]
"""uint8 (B, 3, H, W) -> (B, D)."""


def miniature(images: Tensor) -> Tensor:
    """Pixels: the means of 8×8 blocks (fewer where the image has fewer), (B, 3·8·8) float32 in 0 … 255."""
    side = min(SIDE, *images.shape[-2:])
    return F.adaptive_avg_pool2d(images.float(), side).flatten(1)


@dataclass(frozen=True)
class Nearest:
    """For each of n images: `ratio` r(x) (n,), `index` of y_1 (n,), and whether the mirror image is the nearer (n,)."""

    ratio: Tensor
    index: Tensor
    flipped: Tensor


@dataclass(frozen=True)
class Audit:
    """Which of n samples are suspected copies."""

    flagged: Tensor  # (n,) bool
    nearest: dict[str, Nearest]  # by embedding
    thresholds: dict[str, float]
    rate: float  # at which held-out photographs would be flagged, at most

    @property
    def n(self) -> int:
        return len(self.flagged)

    @property
    def share(self) -> float:
        """Share of the samples that are flagged."""
        return float(self.flagged.double().mean())

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Clopper & Pearson's exact interval of the share."""
        found = binomtest(int(self.flagged.sum()), self.n).proportion_ci(level, method="exact")
        return float(found.low), float(found.high)

    def closest(self, count: int) -> list[tuple[int, str]]:
        """The samples nearest to copies, most suspect first, each with the embedding that says so.

        Ratios are compared in units of their embedding's threshold.
        """
        names = list(self.nearest)
        units = torch.stack([self.nearest[name].ratio / max(self.thresholds[name], 1e-12) for name in names])
        least, by = units.min(dim=0)
        return [(i, names[int(by[i])]) for i in least.argsort()[:count].tolist()]


def nearest(images: Tensor, mirrored: Tensor, train: Tensor) -> Nearest:
    """r(x) of each image from embeddings: of the images (n, D), of their mirror images (n, D), of training (N, D)."""
    centre = train.mean(dim=0)
    train = train - centre  # small numbers, so that |a|² + |b|² − 2ab keeps its digits
    norms, k = train.square().sum(dim=1), min(NEIGHBOURS, len(train))
    ratios, indices, flips = [], [], []
    for rows in torch.arange(len(images)).split(ROWS):
        both = torch.stack([images[rows], mirrored[rows]]) - centre  # (2, b, D)
        squared = norms - 2 * both @ train.T  # but for |x|², which changes no order
        found = squared.topk(k, dim=2, largest=False).indices  # (2, b, k)
        distances = torch.stack([(x[:, None] - train[i]).norm(dim=2) for x, i in zip(both, found, strict=True)])
        first, by = distances.min(dim=2)
        side = first.argmin(dim=0)  # (b,): 0 for the image, 1 for its mirror image
        each = torch.arange(len(rows), device=side.device)
        ratios.append(first[side, each] / distances[side, each].mean(dim=1).clamp(min=1e-12))
        indices.append(found[side, each, by[side, each]])
        flips.append(side == 1)
    return Nearest(torch.cat(ratios).cpu(), torch.cat(indices).cpu(), torch.cat(flips).cpu())


def audit(
    samples: Tensor, train: Tensor, held_out: Tensor, embeddings: Mapping[str, Embed], rate: float = 0.01
) -> Audit:
    """Suspected copies of `train` among `samples`, calibrated by `held_out`; all uint8 (·, 3, H, W).

    Args:
        embeddings: name -> f; at least one.
        rate: at which an honest sample may be flagged. With few held-out photographs the smallest there is,
            len(embeddings)/(m + 1), is used and told in the result.
    Raises ValueError for fewer than 2 training images or none held out.
    """
    if len(train) < 2 or len(held_out) < 1 or not embeddings:
        raise ValueError(f"audit: {len(train)} training and {len(held_out)} held-out images; expected 2 and 1 at least")
    m = len(held_out)
    k = max(1, math.floor(rate / len(embeddings) * (m + 1) + 1e-9))
    flagged, found, thresholds = torch.zeros(len(samples), dtype=torch.bool), {}, {}
    for name, embed in embeddings.items():
        known = embed(train)
        held = nearest(embed(held_out), embed(held_out.flip(-1)), known)
        found[name] = nearest(embed(samples), embed(samples.flip(-1)), known)
        thresholds[name] = float(held.ratio.sort().values[k - 1])
        flagged |= found[name].ratio < thresholds[name]
    return Audit(flagged, found, thresholds, len(embeddings) * k / (m + 1))
