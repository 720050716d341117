"""Scores of generated images against cached statistics of real ones. A score carries the protocol it was made with.

Metrics are chosen as a tuple of factories (classes, or `functools.partial` of them); one pass of the extractor serves
all. The yardsticks beside a score are calls of the same functions, at the same number of images:

    score(samples, extractor, reference)
    score(noise_images(n, height, width), extractor, reference)   # what a sampler starts from
    real = extract(draw(training_images, n), extractor)
    score_features(real, extractor, reference)                    # other real images
    score_features(*divide(real, reference), …)                   # two sets that differ by chance alone: the floor
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torchmetrics.utilities.distributed import gather_all_tensors

from diffusion.console import progress_bar
from diffusion.errors import UserError
from diffusion.metric.distances import FrechetDistance, KernelDistance, Moments
from diffusion.metric.estimate import Reference, SampleMetric, TooFew, moments, pool
from diffusion.metric.features import FeatureExtractor, digest
from diffusion.paths import cache_dir
from diffusion.randomness import Streams, generator_for, seed_for

log = logging.getLogger(__name__)

FORMAT = 1  # of the cached statistics; a change of what they hold or how they are made counts it up
KEPT = {"reference": "reference statistics", "features": "features"}  # in folders of the cache

Kept = TypeVar("Kept")
Factory = Callable[..., SampleMetric]
"""(reference, seed=…, head=…) -> the metric."""

DISTANCES: tuple[Factory, ...] = (FrechetDistance, KernelDistance)


@dataclass(frozen=True)
class Score:
    """One number and its protocol. `dataclasses.asdict` gives primitives, fit for JSON."""

    metric: str  # fid, kid, fd_lite0, kid_lite0, coverage_lite0, …
    value: float
    error: float  # standard error over draws of as many samples, the reference held fixed
    low: float | None  # the interval that goes with it, where there is one …
    high: float | None
    level: float  # … and how often such intervals hold the expectation of the value at this n
    std: float | None  # over the kernel distance's subsets
    n: int  # images scored
    settings: dict[str, Any]  # of the metric, those that change its number: {"k": 5}
    extractor: str
    weights_hash: str
    resize: str
    resolution: str  # of the images, before the extractor's resize
    reference: str  # what the reference is called, e.g. "landscapes val"
    reference_key: str
    reference_n: int


@dataclass(frozen=True)
class ReferenceStatistics(Reference):
    """A reference with its protocol."""

    extractor: str
    weights_hash: str
    resize: str
    resolution: str
    key: str
    name: str = ""
    spatial: "ReferenceStatistics | None" = None  # of the spatial features, where they were asked for


def reference_key(images: Tensor, extractor: FeatureExtractor) -> str:
    """16 hexadecimal digits that change with any pixel, the resolution, the resize, the extractor and its weights."""
    made_from = (FORMAT, digest({"images": images}), extractor.name, extractor.resize, extractor.weights_hash)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]


def reference_statistics(
    images: Tensor,
    extractor: FeatureExtractor,
    name: str = "",
    batch_size: int | None = None,
    progress: bool = True,
    spatial: bool = False,
) -> ReferenceStatistics:
    """Statistics of the real `images`, uint8 (N, 3, H, W), N at least 4; computed once, then read from the cache.

    `name` is what records call the reference; `spatial` asks for those of the spatial features too. A damaged cache
    file is named in the log and made again. Raises UserError for fewer than 4 images, and for an extractor without
    spatial features that is asked for them.
    """
    if len(images) < 4:
        raise UserError(f"{len(images)} reference images{f' ({name})' if name else ''}; scores need at least 4")
    key = reference_key(images, extractor)
    kinds = {"": extractor.num_features} | ({"-spatial": extractor.num_spatial} if spatial else {})
    files = [cache_dir("reference") / f"{key}{kind}.pt" for kind in kinds]
    read = [_read(file, lambda fields: ReferenceStatistics(**fields)) for file in files]
    found = [statistics for statistics in read if statistics is not None]
    if len(found) < len(files):
        found, widths = [], list(kinds.values())
        seen, rows = [Moments(width) for width in widths], []
        for batch in _extract(images, extractor, None, "Reference features", batch_size, progress, spatial=spatial):
            parts = batch.split(widths, dim=1)
            for each, part in zip(seen, parts, strict=True):
                each.update(part)
            rows.append([part.cpu() for part in parts])
        for file, each, features in zip(files, seen, zip(*rows, strict=True), strict=True):
            mean, cov = each.moments()
            statistics = ReferenceStatistics(
                mean=mean,
                cov=cov,
                features=pool(torch.cat(features)),
                n=len(images),
                extractor=extractor.name,
                weights_hash=extractor.weights_hash,
                resize=extractor.resize,
                resolution=_resolution(images),
                key=key,
            )
            _write(asdict(statistics), file)
            found.append(statistics)
    return replace(found[0], name=name, spatial=found[1] if spatial else None)


def features_of(images: Tensor, extractor: FeatureExtractor, keep: bool = False, progress: bool = True) -> Tensor:
    """Features (N, D) of `images`, uint8 (N, 3, H, W), in their order, float32 on the CPU, of this process alone.

    With `keep`, for real images, they are extracted once, then read from the cache. A damaged cache file is named in
    the log and made again.
    """

    def made() -> Tensor:
        what = f"{extractor.name} features of {len(images)} images"
        return torch.cat([batch.cpu() for batch in _extract(images, extractor, None, what, None, progress)])

    if not keep:
        return made()
    file = cache_dir("features") / f"{reference_key(images, extractor)}.pt"
    features = _read(file, itemgetter("features"))
    if features is None:
        features = made()
        _write({"features": features}, file)
    return features


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


def extract(
    images: Tensor | Iterable[Tensor],
    extractor: FeatureExtractor,
    n: int | None = None,
    batch_size: int | None = None,
    progress: bool = True,
    resolution: str | None = None,
    spatial: bool = False,
) -> Tensor:
    """Features (N, D) of `images` as `score` takes them, of all processes, float32 on the CPU.

    With `spatial` (N, D + S), the spatial features last.

    Memory of the device does not grow with N; that of the CPU by 4 D bytes an image.
    """
    batches = _extract(images, extractor, n, "Scoring", batch_size, progress, resolution, spatial)
    width = extractor.num_features + spatial * extractor.num_spatial
    features = torch.cat([torch.empty(0, width), *(batch.cpu() for batch in batches)])
    if distributed.is_available() and distributed.is_initialized():
        parts = gather_all_tensors(features.to(extractor.device if distributed.get_backend() == "nccl" else "cpu"))
        features = torch.cat([part.cpu() for part in parts])
    return features


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
        raise UserError(f"{len(features)} images to score; Fréchet and kernel distances need at least 4")
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
                settings=metric.told(len(x)),
                extractor=extractor.name,
                weights_hash=extractor.weights_hash,
                resize=extractor.resize,
                resolution=reference.resolution,
                reference=reference.name,
                reference_key=reference.key,
                reference_n=reference.n,
            )
    if metrics and not found:
        raise UserError(f"none of the metrics chosen can be had of {len(features)} images' {extractor.name} features")
    return found


def divide(features: Tensor, reference: ReferenceStatistics, seed: int = 0) -> tuple[Tensor, ReferenceStatistics]:
    """Real `features` and the reference's, mixed and divided at random into N and a reference of as many as was.

    The score of the one by the other is the floor at N: what two sets of real images have that differ by chance alone.
    The reference keeps its name and key, which say what the score stands beside. Spatial features, which `features`
    (N, D + S) and the reference may have, are divided likewise.
    """
    features, maps = features.tensor_split([len(reference.mean)], dim=1)
    both = torch.cat([pool(features), reference.features])
    both = both[torch.randperm(len(both), generator=generator_for(seed, "divide"))]
    n = len(both) - len(reference.features)
    mean, cov = moments(both[n:])
    rest = replace(reference, mean=mean, cov=cov, features=both[n:], n=len(reference.features))
    if reference.spatial is None or not maps.shape[1]:
        return both[:n], rest
    maps, spatial = divide(maps, reference.spatial, seed)
    return torch.cat([both[:n], maps], dim=1), replace(rest, spatial=spatial)


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


def noise_images(n: int, height: int, width: int, seed: int = 0, batch_size: int = 64) -> Iterator[Tensor]:
    """`n` images of N(0, 1) noise, clamped to [−1, 1] and quantised, in uint8 batches (b, 3, height, width)."""
    for index in torch.arange(n).split(batch_size):
        noise = Streams([seed_for(seed, "noise image", i) for i in index.tolist()]).normal(3, height, width)
        yield ((noise.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def draw(images: Tensor, n: int, seed: int = 0) -> Tensor:
    """`n` distinct ones of `images` (all when there are fewer), by counted randomness."""
    return images[torch.randperm(len(images), generator=generator_for(seed, "draw"))[:n]]


def _resolution(images: Tensor) -> str:
    return "x".join(map(str, images.shape[-2:]))


def _extract(
    images: Tensor | Iterable[Tensor],
    extractor: FeatureExtractor,
    n: int | None,
    description: str,
    batch_size: int | None,
    progress: bool,
    resolution: str | None = None,
    spatial: bool = False,
) -> Iterator[Tensor]:
    """Features (b, D), or (b, D + S), of the first `n` images, in batches, under a progress bar."""
    if isinstance(images, Tensor):
        n = len(images) if n is None else n
        images = [images]
    batch_size = batch_size or (128 if extractor.device.type == "cuda" else 8)
    seen = 0
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    with progress_bar(enabled=progress and first) as bar:
        task = bar.add_task(description, total=n, unit="image", note="")
        for arrived in images:
            arrived = arrived if n is None else arrived[: n - seen]
            if len(arrived) and resolution not in (None, found := _resolution(arrived)):
                raise UserError(f"images of {found} pixels to score; the reference has {resolution}: resize them alike")
            for batch in arrived.split(batch_size):
                if len(batch):
                    yield extractor(batch, spatial)
                seen += len(batch)
                bar.update(task, completed=seen)
            if seen == n:
                break
    if n is not None and seen < n:
        raise ValueError(f"{description}: {seen} images came; expected {n}")


def _tensors(fields: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in fields.items() if isinstance(value, Tensor)}


def _read(file: Path, make: Callable[[dict[str, Any]], Kept]) -> Kept | None:
    """What `make` gives of the fields in a cache file; None where there is none, or a damaged one, which is named."""
    try:
        fields = torch.load(file, map_location="cpu", weights_only=True)
        if fields.pop("checksum") != digest(_tensors(fields)):
            raise ValueError("its checksum does not fit")
        return make(fields)
    except FileNotFoundError:
        return None
    except Exception as error:  # what a damaged file raises is anything from EOFError to UnpicklingError
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        log.warning("%s %s are damaged (%s) and are computed again", KEPT[file.parent.name], file, reason)
        return None


def _write(fields: dict[str, Any], file: Path) -> None:
    """Beside its place, to the disk, then renamed: a reader finds all of it or nothing."""
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as temporary:
            try:
                torch.save({**fields, "checksum": digest(_tensors(fields))}, temporary)
                temporary.flush()
                os.fsync(temporary.fileno())
                os.replace(temporary.name, file)
            except BaseException:
                Path(temporary.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        what = KEPT[file.parent.name]
        log.warning("%s not kept in %s (%s): they are computed again next time", what, file, error)
