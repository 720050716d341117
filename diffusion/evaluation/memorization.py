"""Memorization: samples that are suspiciously close to a training image, compared with held-out photographs.

A function f embeds an image as its miniature of 8×8 pixels, or as an extractor's features. A sample x is compared in
several views v, such as x and its mirror image. With y_1, y_2, … the training images ordered by their distance from x,
a sample is flagged if its ratio (Carlini et al. 2023, arXiv:2301.13188, section 4.2) is below a threshold:

    r(x) = d(x, y_1) / mean_{k ≤ 50} d(x, y_k) < r_(k),    d(x, y) = min_v |f(v(x)) − f(y)|,    k = ⌊rate · (m + 1)⌋.

Here r_(1) ≤ … ≤ r_(m) are the ratios of the m held-out photographs that repeat no training image. A photograph from
their distribution is flagged with probability at most k/(m + 1) ≤ rate (conformal prediction: Vovk et al. 2005), and
the number X of flagged samples among n without copies is beta-binomial. Samples that repeat training images are counted
separately, flagged or not, because a copy of an image that has many near-duplicates is not flagged.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import scipy  # its submodules are imported on first use
import torch
from torch import Tensor

from diffusion.console import console, count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.record import Reference, Score
from diffusion.metric.score import extract, features_of
from diffusion.nearest import NEAR, miniature, mirrored, neighbours, repeats, shifted
from diffusion.report import figures, style

NEIGHBOURS = 50
SIDE = 8  # pixels per side of a miniature, which JPEG compression and noise hardly change
SHOWN = 10  # pairs in the figure
CHANCE = 0.025  # with a smaller p-value, more samples are flagged than by chance


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

    Raises UserError if no image of `held_out` differs from the training images.

    Args:
        embed: images (B, C, H, W) -> (B, D).
        views: images -> the same images in each view, the unchanged ones first.
        rate: the highest rate at which samples that are not copies may be flagged; 1/(m + 1) if that is higher.
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


def audit_copies(images: Tensor, data: ImageData, kind: str, extractor: FeatureExtractor, folder: Path) -> Score:
    """Compute and print the score of copies among `images`, uint8 (n, C, H, W), and write a figure in `folder`.

    Args:
        kind: The distance: `pixels` (takes seconds; the score is `copies`), or `features` (runs the extractor on all
            training and held-out images, whose features are then cached; `copies_lite0` for lite0).
    """
    train, held_out = data.splits["train"], data.splits["val"]
    if kind == "pixels":
        name, by, weights, resize = "copies", "pixels", None, "8x8 means in 18 views"
        found = audit(images, train.images, held_out.images)
    else:
        name, by = f"copies_{extractor.name}", extractor.name
        weights, resize = extractor.weights_hash, extractor.resize
        samples = mirrored(images)

        def embed(x: Tensor) -> Tensor:
            real = not any(torch.equal(x, y) for y in samples)
            return features_of(x, extractor)[0] if real else extract(x, extractor, gather=False)

        found = audit(images, train.images, held_out.images, embed, mirrored)
    low, high = found.interval()
    closest = found.closest(SHOWN)
    nearest, ratios = found.nearest[closest], [round(float(found.ratio[i]), 4) for i in closest]
    pairs = zip(closest, nearest.tolist(), ratios, strict=True)
    score = Score(
        metric=name,
        value=float(found.flagged.double().mean()),
        n=len(images),
        reference=Reference("train", len(train), train.key),
        low=low,
        high=high,
        level=0.95,
        features=by,
        weights_hash=weights,
        resize=resize,
        resolution="x".join(map(str, images.shape[-2:])),
        details={
            "flagged": int(found.flagged.sum()),
            "repeats": int(found.repeats.sum()),
            "rate": found.k / (found.m + 1),
            "p_value": found.p_value,
            "closest": [{"sample": i, "train": train.names[j], "ratio": ratio} for i, j, ratio in pairs],
        },
    )
    facing = torch.stack(mirrored(train.images[nearest]))  # each mirrored if that is closer to its sample
    distance = (facing.float() - images[closest].float()).flatten(2).norm(dim=2)
    facing = torch.where((distance[1] < distance[0]).view(-1, 1, 1, 1), facing[1], facing[0])
    style.save(figures.copies(images[closest], facing, ratios), folder / f"figures/{name}.png")
    console.print(sentence(score))
    return score


def sentence(score: Score) -> str:
    """The result of an audit in one line. It counts near-duplicates, because a few copies hardly change the share."""
    details, signs = score.details, []
    if details["p_value"] < CHANCE:
        signs.append("more than chance")
    if repeated := details["repeats"]:
        signs.append(f"{count(repeated, 'near-duplicate')} of training images (within {NEAR}/255)")
    return (
        f"{score.metric}: {details['flagged']} of {score.n} samples suspected ({score.value:.1%}, 95% interval "
        f"{score.low:.1%} to {score.high:.1%}; of held-out photographs at most {details['rate']:.1%}): "
        + (f"{' and '.join(signs)}: see the figure" if signs else "no sign of copying")
    )
