"""Scores of generated images against statistics of real ones, each with its protocol; and baselines to judge them by.

Baselines are scored by the same functions: `noise_images`, other real images that `draw` chooses, and the floor, two
sets that `divide` makes of real images.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.metric.distances import FrechetDistance, KernelDistance
from diffusion.metric.estimate import LEVEL, ROWS, Reference, SampleMetric, TooFew, moments, pool
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.record import Reference as Recorded
from diffusion.metric.record import Score
from diffusion.metric.reference import LEAST, ReferenceStatistics, described_size, extract
from diffusion.randomness import Streams, generator_for, seeds_for

log = logging.getLogger(__name__)
warn_once = cache(log.warning)  # samples and their baselines lack the same metrics for the same reasons

DISTANCES: tuple[SampleMetric, ...] = (FrechetDistance(), KernelDistance())


def distances(metrics: Sequence[SampleMetric]) -> Sequence[SampleMetric]:
    """The Fréchet and kernel distances among `metrics`, with their settings; `DISTANCES` if there are none."""
    return [metric for metric in metrics if type(metric) in (FrechetDistance, KernelDistance)] or DISTANCES


def score(
    images: Tensor,
    extractor: FeatureExtractor,
    reference: ReferenceStatistics,
    metrics: Sequence[SampleMetric] = DISTANCES,
    description: str = "scoring images",
) -> dict[str, Score]:
    """Compute `metrics` of generated images, uint8 (n, C, H, W), against `reference`; return the scores by name.

    In a distributed run, each process passes its own part of the images, and every process returns the scores of all.
    The extractor runs on its device, the metrics on the CPU. Raises UserError for fewer than 4 images, or for a
    resolution other than the reference's.
    """
    if (size := described_size(images)) != reference.resolution:
        raise UserError(f"images have {size} pixels but the reference has {reference.resolution}: use the same size")
    features = extract(images, extractor, len(reference.parts) > 1, description=description)
    return score_features(features, extractor, reference, metrics)


def score_features(
    features: Tensor,
    extractor: FeatureExtractor,
    reference: ReferenceStatistics,
    metrics: Sequence[SampleMetric] = DISTANCES,
) -> dict[str, Score]:
    """`score` from the extractor's features (N, D), or (N, D + S) with spatial ones.

    A metric that lacks logits, spatial features or images is left out, with a log message. Raises UserError for fewer
    than 4 images or if no metric is left, and ValueError for a reference of another extractor.
    """
    if reference.made_by != (made_by := (extractor.name, extractor.weights_hash, extractor.resize)):
        raise ValueError(f"reference of {' '.join(reference.made_by)}, not of {' '.join(made_by)}")
    if len(features) < LEAST:
        raise UserError(f"{len(features)} images to score; Fréchet and kernel distances need at least {LEAST}")
    found = {}
    plain, maps = features.tensor_split([extractor.num_features], dim=1)
    for metric in metrics:
        x, against, kind = plain, reference.parts[0], type(metric).__name__
        if metric.uses == "spatial":
            if len(reference.parts) == 1:
                warn_once(f"{kind}: skipped, {extractor.name} has no spatial features; features=inception does")
                continue
            x, against = maps, reference.parts[1]
        if metric.uses == "logits":
            if not extractor.has_logits:
                log.info("%s: skipped, %s has no classes", kind, extractor.name)
                continue
            x = torch.cat([extractor.logits(rows) for rows in plain.split(ROWS)])
        try:
            estimates = metric.measure(x, against)
        except TooFew as error:
            warn_once(f"{kind}: skipped ({error})")
            continue
        for short, estimate in estimates.items():
            low, high = estimate.interval()
            name = extractor.named(short)
            found[name] = Score(
                metric=name,
                value=estimate.value,
                error=estimate.error,
                low=low,
                high=high,
                level=LEVEL,
                std=estimate.std,
                n=len(features),
                settings=metric.settings_for(len(x), against),
                features=extractor.name,
                weights_hash=extractor.weights_hash,
                resize=extractor.resize,
                resolution=reference.resolution,
                reference=Recorded(reference.name, against.n, reference.key),
            )
    if metrics and not found:
        raise UserError(
            f"none of the chosen metrics can be computed for {len(features)} images and {extractor.name} features"
        )
    return found


def noise_images(n: int, shape: tuple[int, int, int]) -> Tensor:
    """`n` images of N(0, 1) noise, clamped to [−1, 1], as uint8 (n, C, H, W); `shape` is (C, H, W)."""
    parts = [Streams(seeds_for(0, "noise image", last=i.tolist())).normal(*shape) for i in torch.arange(n).split(64)]
    return torch.cat([((noise.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8) for noise in parts])


def draw(images: Tensor, n: int) -> Tensor:
    """`n` of `images`, drawn at random without replacement, always the same; all of them if there are fewer."""
    return images[torch.randperm(len(images), generator=generator_for(0, "draw"))[:n]]


def divide(features: Tensor, reference: ReferenceStatistics, seed: int = 0) -> tuple[Tensor, ReferenceStatistics]:
    """Mix real `features` with the reference's, and divide them at random into sets of the same two sizes.

    The score of these two sets is the floor: the value for sets of real images that differ only by chance. The sizes
    are N of `features` and the reference's M (`KEPT` if it is larger). The new reference has the name and key of the
    old one.
    """
    ours, theirs, widths = [], [], [len(each.mean) for each in reference.parts]
    for part, known in zip(features.split(widths, dim=1), reference.parts, strict=True):
        both = torch.cat([pool(part, len(part)), known.features])
        both = both[torch.randperm(len(both), generator=generator_for(seed, "divide"))]
        ours.append(both[: len(part)])
        rest = both[len(part) :]
        theirs.append(Reference(*moments(rest), rest, len(rest)))
    return torch.cat(ours, dim=1), replace(reference, parts=tuple(theirs))
