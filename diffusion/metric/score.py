"""Scores of generated images against statistics of real ones, each with its protocol.

Metrics are given as a sequence of factories (classes, or `functools.partial` of them) and share a single pass of the
extractor. Baselines come from the same functions, with equally many images (`metric.baselines`):

    score(samples, extractor, reference)
    score(noise_images(n, (C, H, W)), extractor, reference)      # what a sampler starts from
    real = extract(draw(training_images, n), extractor)
    score_features(real, extractor, reference)                    # other real images
    score_features(*divide(real, reference), …)                   # the floor: two sets that differ only by chance
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from torch import Tensor

from diffusion.console import count
from diffusion.errors import UserError
from diffusion.metric.distances import FrechetDistance, KernelDistance
from diffusion.metric.estimate import LEVEL, SampleMetric, TooFew
from diffusion.metric.extract import extract
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.record import Reference, Score
from diffusion.metric.reference import LEAST, ReferenceStatistics

log = logging.getLogger(__name__)

Factory = Callable[..., SampleMetric]
"""(reference, head=…) -> the metric."""

DISTANCES: tuple[Factory, ...] = (FrechetDistance, KernelDistance)


def wants_spatial(metrics: Sequence[Factory], extractor: FeatureExtractor) -> bool:
    """Whether one of the metrics needs spatial features, and the extractor has them."""
    return extractor.num_spatial > 0 and any(map(_takes_spatial, metrics))


def distances(metrics: Sequence[Factory]) -> Sequence[Factory]:
    """The members of `metrics` that are in `DISTANCES`, with their settings; `DISTANCES` if there are none."""
    return [metric for metric in metrics if getattr(metric, "func", metric) in DISTANCES] or DISTANCES


def _takes_spatial(metric: Factory) -> bool:
    return getattr(getattr(metric, "func", metric), "needs_spatial", False)  # a partial's class


def check_number(n: int) -> None:
    """Raise UserError for fewer images to score than the distances need."""
    if n < LEAST:
        raise UserError(f"{count(n, 'image')} to score; Fréchet and kernel distances need at least {LEAST}")


def score(
    images: Tensor | Iterable[Tensor],
    extractor: FeatureExtractor,
    reference: ReferenceStatistics,
    n: int | None = None,
    metrics: Sequence[Factory] = DISTANCES,
    description: str = "scoring images",
) -> dict[str, Score]:
    """Compute `metrics` of generated images against `reference`; return the scores by name.

    In a distributed run, each process passes its own part of the images (and its `n`), and every process returns the
    scores of all images. The extractor runs on its device, the metrics on the CPU. Raises TypeError for images that are
    not uint8, and UserError for fewer than 4 images, or for a resolution other than the reference's.

    Args:
        images, n, description: see `metric.extract.extract`.
    """
    spatial = reference.spatial is not None and wants_spatial(metrics, extractor)
    features = extract(images, extractor, n, reference.resolution, spatial, description=description)
    return score_features(features, extractor, reference, metrics)


def score_features(
    features: Tensor,
    extractor: FeatureExtractor,
    reference: ReferenceStatistics,
    metrics: Sequence[Factory] = DISTANCES,
) -> dict[str, Score]:
    """`score` from the extractor's features (N, D), or (N, D + S) with spatial ones.

    A metric that lacks logits, spatial features or images is left out, with a log message. Raises UserError for fewer
    than 4 images or if no metric is left, and ValueError for a reference of another extractor.
    """
    made_by = (reference.extractor, reference.weights_hash, reference.resize)
    if made_by != (extractor.name, extractor.weights_hash, extractor.resize):
        raise ValueError(f"reference of {reference.extractor} {reference.weights_hash}, not of {extractor.name}")
    check_number(len(features))
    found = {}
    plain, maps = features.tensor_split([extractor.num_features], dim=1)
    for factory in metrics:
        x, against = (maps, reference.spatial) if _takes_spatial(factory) else (plain, reference)
        if against is None or not x.shape[1]:
            _warn_once(f"sFID: skipped, {extractor.name} has no spatial features; features=inception does")
            continue
        metric = factory(against, head=extractor.logits)
        if metric.needs_logits and not extractor.has_logits:
            log.info("%s: skipped, %s has no classes", type(metric).__name__, extractor.name)
            continue
        try:
            estimates = metric.measure(x)
        except TooFew as error:
            _warn_once(f"{type(metric).__name__}: skipped ({error})")
            continue
        for short, estimate in estimates.items():
            low, high = estimate.interval() or (None, None)
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
                settings=metric.settings_for(len(x)),
                features=extractor.name,
                weights_hash=extractor.weights_hash,
                resize=extractor.resize,
                resolution=reference.resolution,
                reference=Reference(reference.name, reference.n, reference.key),
            )
    if metrics and not found:
        raise UserError(
            f"none of the chosen metrics can be computed for {len(features)} images and {extractor.name} features"
        )
    return found


@cache
def _warn_once(message: str) -> None:
    """Log a message once: samples and their baselines lack the same metrics for the same reasons."""
    log.warning(message)
