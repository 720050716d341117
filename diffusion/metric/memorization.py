"""Is it learning or copying? Each sample's nearest training image, judged by how near held-out photographs come.

Definitions. An image is embedded by some f: its miniature of 8×8 pixels, or an extractor's features. A sample x is seen
in views v: as it is and mirrored; for the miniature also each of these shifted by −1, 0 or +1 pixel down and right,
edges replicated. With y_1, y_2, … the training images by distance from x,

    d(x, y) = min_v |f(v(x)) − f(y)|,    r(x) = d(x, y_1) / mean_{k ≤ 50} d(x, y_k)

is near 0 for a copy and near 1 for an image like many others; dividing keeps a plain sky, which is near everything,
from looking like a copy (Carlini et al. 2023, arXiv:2301.13188, §4.2). Held-out photographs are no copies, so the
threshold is set by them: with m of them in order r_(1) ≤ … ≤ r_(m), a sample is flagged where

    r(x) < r_(k),   k = ⌊rate · (m + 1)⌋.

A photograph drawn as those m were is flagged with probability at most k/(m + 1) ≤ rate, whatever the
distribution and the embedding (conformal prediction: Vovk et al. 2005). Tiles of other photographs than the held-out
ones' are not drawn as these were: of bundled tiles, held out by photograph, 1.1% are flagged on average where k/(m + 1)
is 0.8%. Several embeddings share the rate equally, and a sample that any of them flags is a suspected copy.

Held-out photographs that repeat training images, by a criterion that is given, would lower the threshold: they are left
out of the m. Flagged samples that meet the same criterion are told apart, for a share says nothing of a few copies.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import product

import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor

NEIGHBOURS = 50
ROWS = 256  # samples whose distances are in memory at once
SIDE = 8  # of a miniature: JPEG and noise hardly change it

Embed = Callable[[Tensor], Tensor]
"""uint8 (B, 3, H, W) -> (B, D)."""


@dataclass(frozen=True)
class View:
    """Images (B, 3, H, W) moved by `down` and `right` pixels, edges replicated, then mirrored or not."""

    mirrored: bool = False
    down: int = 0
    right: int = 0

    def __call__(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        rows = (torch.arange(height) - self.down).clamp(0, height - 1)
        columns = (torch.arange(width) - self.right).clamp(0, width - 1)
        return images[..., rows[:, None], columns.flip(0) if self.mirrored else columns]


EITHER_WAY = (View(), View(mirrored=True))
SHIFTED = tuple(View(*v) for v in product((False, True), (0, -1, 1), (0, -1, 1)))  # unmoved first: it wins ties


@dataclass(frozen=True)
class Embedding:
    """An `embed`, and the `views` of a sample of which the nearest to a training image counts."""

    embed: Embed
    views: tuple[View, ...] = EITHER_WAY

    def seen(self, images: Tensor) -> Tensor:
        """Each view embedded, (V, B, D)."""
        return torch.stack([self.embed(view(images)) for view in self.views])


def miniature(images: Tensor) -> Tensor:
    """Pixels: the means of 8×8 blocks (fewer where the image has fewer), (B, 3·8·8) float32 in 0 … 255."""
    side = min(SIDE, *images.shape[-2:])
    return torch.cat([F.adaptive_avg_pool2d(x.float(), side).flatten(1) for x in images.split(ROWS)])


PIXELS = Embedding(miniature, SHIFTED)  # a pixel is a quarter of a block at 32×32: without shifts copies go unseen


@dataclass(frozen=True)
class Nearest:
    """For each of n images: `ratio` r(x) (n,), `index` of y_1 (n,), and the index of the `view` nearest to it (n,)."""

    ratio: Tensor
    index: Tensor
    view: Tensor


@dataclass(frozen=True)
class Audit:
    """Which of n samples are suspected copies."""

    flagged: Tensor  # (n,) bool
    repeats: Tensor  # (n,) bool: those of them that are near-duplicates of a training image
    nearest: dict[str, Nearest]  # by embedding
    thresholds: dict[str, float]
    rate: float  # at which held-out photographs would be flagged, at most
    left_out: int  # held-out photographs that repeat a training image, and do not calibrate

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

        Repeats come first. Ratios are compared in units of their embedding's threshold, below which is 1.
        """
        names = list(self.nearest)
        units = torch.stack([self.nearest[name].ratio / max(self.thresholds[name], 1e-12) for name in names])
        least, by = units.min(dim=0)
        return [(i, names[int(by[i])]) for i in (least - self.repeats.int()).argsort()[:count].tolist()]


def nearest(seen: Tensor, train: Tensor) -> Nearest:
    """r(x) of each image from embeddings: of the images in each view (V, n, D), of the training images (N, D)."""
    centre = train.mean(dim=0)
    train = train - centre  # small numbers, so that |a|² + |b|² − 2ab keeps its digits
    norms, k = train.square().sum(dim=1), min(NEIGHBOURS, len(train))
    ratios, indices, views = [], [], []
    for rows in torch.arange(seen.shape[1]).split(ROWS):
        x = seen[:, rows] - centre  # (V, b, D)
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
    """Suspected copies of `train` among `samples`, calibrated by `held_out`; all uint8 (·, 3, H, W).

    Args:
        embeddings: at least one, by name.
        repeats: images (B, 3, H, W) -> (B,) bool, which are near-duplicates of a training image.
        rate: at which an honest sample may be flagged. With few held-out photographs the smallest there is,
            len(embeddings)/(m + 1), is used and told in the result.
    Raises ValueError for fewer than 2 training images, none held out, or none held out that isn't a repeat.
    """
    if len(train) < 2 or len(held_out) < 1 or not embeddings:
        raise ValueError(f"audit: {len(train)} training and {len(held_out)} held-out images; expected 2 and 1 at least")
    honest = ~repeats(held_out)
    if not honest.any():
        raise ValueError(f"audit: all {len(held_out)} held-out images repeat training images; expected 1 that doesn't")
    m = int(honest.sum())
    k = max(1, math.floor(rate / len(embeddings) * (m + 1) + 1e-9))
    flagged, found, thresholds = torch.zeros(len(samples), dtype=torch.bool), {}, {}
    for name, embedding in embeddings.items():
        known = embedding.embed(train)
        held = nearest(embedding.seen(held_out), known).ratio[honest]
        found[name] = nearest(embedding.seen(samples), known)
        thresholds[name] = float(held.sort().values[k - 1])
        flagged |= found[name].ratio < thresholds[name]
    repeated = flagged.clone()
    repeated[flagged] = repeats(samples[flagged])
    return Audit(flagged, repeated, found, thresholds, len(embeddings) * k / (m + 1), len(held_out) - m)
