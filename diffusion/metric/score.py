"""Scores of generated images against statistics of real ones, each with its protocol.

Metrics are chosen as a sequence of factories (classes, or `functools.partial` of them); one pass of the extractor serves
all. The baselines beside a score are calls of the same functions with as many images (`metric.baselines`):

    score(samples, extractor, reference)
    score(noise_images(n, height, width), extractor, reference)   # what a sampler starts from
    real = extract(draw(training_images, n), extractor)
    score_features(real, extractor, reference)                    # other real images
    score_features(*divide(real, reference), …)                   # two sets that differ by chance only: the floor
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from torch import Tensor

from diffusion.console import count
from diffusion.errors import UserError
from diffusion.metric.distances import FrechetDistance, KernelDistance
from diffusion.metric.estimate import SampleMetric, TooFew
from diffusion.metric.extract import extract
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.record import Reference, Score
from diffusion.metric.reference import ReferenceStatistics

log = logging.getLogger(__name__)

Factory = Callable[..., SampleMetric]
"""(reference, seed=…, head=…) -> the metric."""

DISTANCES: tuple[Factory, ...] = (FrechetDistance, KernelDistance)


def wants_spatial(metrics: Sequence[Factory], extractor: FeatureExtractor) -> bool:
    """True where one of the metrics takes spatial features, and the extractor has them."""
    return extractor.num_spatial > 0 and any(map(_spatial, metrics))


def distances(metrics: Sequence[Factory]) -> Sequence[Factory]:
    """Those of `metrics` that are `DISTANCES`, with the settings they have; `DISTANCES` where none is."""
    return [metric for metric in metrics if _class(metric) in DISTANCES] or DISTANCES


def _class(metric: Factory) -> Factory:
    """The class that is, or of which is, a `functools.partial`."""
    return getattr(metric, "func", metric)


def _spatial(metric: Factory) -> bool:
    """True for a metric that takes spatial features."""
    return getattr(_class(metric), "needs_spatial", False)


def score(
    images: Tensor | Iterable[Tensor],
    extractor: FeatureExtractor,
    reference: ReferenceStatistics,
    n: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
    metrics: Sequence[Factory] = DISTANCES,
    level: float = 0.95,
) -> dict[str, Score]:
    """`metrics` of generated `images` against `reference`, by name.

    `images`: uint8 (N, 3, H, W), or an iterable of uint8 (b, 3, H, W) of any sizes b. Exactly `n` are counted: what
    comes after is not looked at, and fewer are an error. In a distributed run each process passes its own part (and its
    `n`), and every process gets the score of all. `seed` draws the kernel distance's subsets. `batch_size`: of the
    extractor, 128 on a GPU and 8 on a CPU unless told. The extractor's device does the work of the extractor, the CPU
    that of the metrics.

    Raises TypeError for images that are not uint8; UserError for fewer than 4 images, or another resolution than the
    reference's; ValueError for a reference made by another extractor, and for fewer images than `n`.
    """
    _check(extractor, reference)
    spatial = reference.spatial is not None and wants_spatial(metrics, extractor)
    features = extract(images, extractor, n, batch_size, progress, reference.resolution, spatial)
    return score_features(features, extractor, reference, seed, metrics, level)


def score_features(
    features: Tensor,
    extractor: FeatureExtractor,
    reference: ReferenceStatistics,
    seed: int = 0,
    metrics: Sequence[Factory] = DISTANCES,
    level: float = 0.95,
) -> dict[str, Score]:
    """`score` of features (N, D), or (N, D + S) with the spatial ones, that the extractor gave.

    A metric that these features can't have (no logits, no spatial ones, or too few images for it) is left out, which
    the log says. UserError where none is left.
    """
    _check(extractor, reference)
    if len(features) < 4:
        raise UserError(f"{count(len(features), 'image')} to score; Fréchet and kernel distances need at least 4")
    found = {}
    plain, maps = features.tensor_split([extractor.num_features], dim=1)
    for factory in metrics:
        x, against = (maps, reference.spatial) if _spatial(factory) else (plain, reference)
        if against is None or not x.shape[1]:
            _warn_once(f"sFID: left out, {extractor.name} features have no spatial ones; features=inception has")
            continue
        metric = factory(against, seed=seed, head=extractor.logits)
        if metric.needs_logits and not extractor.has_logits:
            log.info("%s: left out, %s features have no classes", type(metric).__name__, extractor.name)
            continue
        try:
            estimates = metric.measure(x)
        except TooFew as error:
            _warn_once(f"{type(metric).__name__}: left out ({error})")
            continue
        for short, estimate in estimates.items():
            low, high = estimate.interval(level) or (None, None)
            name = extractor.named(short)
            found[name] = Score(
                metric=name,
                value=estimate.value,
                error=estimate.error,
                low=low,
                high=high,
                level=level,
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
        raise UserError(f"none of the metrics chosen can be had of {len(features)} images' {extractor.name} features")
    return found


@cache
def _warn_once(message: str) -> None:
    """Samples and their yardsticks are scored alike, and lack the same metric for the same reason."""
    log.warning(message)


def _check(extractor: FeatureExtractor, reference: ReferenceStatistics) -> None:
    if (reference.extractor, reference.weights_hash, reference.resize) != (
        extractor.name,
        extractor.weights_hash,
        extractor.resize,
    ):
        raise ValueError(f"reference by {reference.extractor} {reference.weights_hash}, not by {extractor.name}")
