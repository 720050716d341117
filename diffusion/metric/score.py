"""Scores of generated images against cached statistics of real ones. A score carries the protocol it was made with.

The yardsticks beside a score are calls of the same function, at the same number of images:

    score(samples, extractor, reference)
    score(noise_images(n, height, width), extractor, reference)   # what a sampler starts from
    score(draw(training_images, n), extractor, reference)         # real versus real: as low as it gets
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from diffusion.console import progress_bar
from diffusion.errors import UserError
from diffusion.metric.distances import FrechetDistance, KernelDistance, Moments, pool
from diffusion.metric.features import FeatureExtractor, digest
from diffusion.paths import cache_dir
from diffusion.randomness import Streams, generator_for, seed_for

log = logging.getLogger(__name__)

FORMAT = 1  # of the cached statistics; a change of what they hold or how they are made counts it up


@dataclass(frozen=True)
class Score:
    """One number and its protocol. `dataclasses.asdict` gives primitives, fit for JSON."""

    metric: str  # fid, kid, fd_lite0, kid_lite0, …
    value: float
    std: float | None  # over the kernel distance's subsets
    n: int  # images scored
    subset_size: int | None  # of the kernel distance
    extractor: str
    weights_hash: str
    resize: str
    resolution: str  # of the images, before the extractor's resize
    reference: str  # what the reference is called, e.g. "landscapes val"
    reference_key: str
    reference_n: int


@dataclass(frozen=True)
class ReferenceStatistics:
    """What the distances need to know of the real images."""

    mean: Tensor  # (D,) float64
    cov: Tensor  # (D, D) float64, unbiased
    features: Tensor  # (M, D) float32: all of them, or `distances.POOL`
    n: int
    extractor: str
    weights_hash: str
    resize: str
    resolution: str
    key: str
    name: str = ""


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
) -> ReferenceStatistics:
    """Statistics of the real `images`, uint8 (N, 3, H, W), N at least 4; computed once, then read from the cache.

    `name` is what records call the reference. A damaged cache file is named in the log and made again. Raises UserError
    for fewer than 4 images.
    """
    if len(images) < 4:
        raise UserError(f"{len(images)} reference images{f' ({name})' if name else ''}; scores need at least 4")
    key = reference_key(images, extractor)
    file = cache_dir("reference") / f"{key}.pt"
    statistics = _read(file)
    if statistics is None:
        moments, features = Moments(extractor.num_features), []
        for batch in _extract(images, extractor, len(images), "Reference features", batch_size, progress):
            moments.update(batch)
            features.append(batch.cpu())
        mean, cov = moments.moments()
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
        _write(statistics, file)
    return replace(statistics, name=name)


def score(
    images: Tensor | Iterable[Tensor],
    extractor: FeatureExtractor,
    reference: ReferenceStatistics,
    n: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> dict[str, Score]:
    """Fréchet and kernel distance of generated `images` to `reference`, by metric name.

    `images`: uint8 (N, 3, H, W), or an iterable of uint8 (b, 3, H, W) of any sizes b. Exactly `n` are counted: what
    comes after is not looked at, and fewer are an error. In a distributed run each process passes its own part (and its
    `n`), and every process gets the score of all. `seed` draws the kernel distance's subsets. `batch_size`: of the
    extractor, 128 on a GPU and 8 on a CPU unless told. The extractor's device does the work.

    Raises TypeError for images that are not uint8; UserError for fewer than 4 images, or another resolution than the
    reference's; ValueError for a reference made by another extractor, and for fewer images than `n`.
    """
    if (reference.extractor, reference.weights_hash, reference.resize) != (
        extractor.name,
        extractor.weights_hash,
        extractor.resize,
    ):
        raise ValueError(f"reference by {reference.extractor} {reference.weights_hash}, not by {extractor.name}")
    frechet = FrechetDistance(reference.mean, reference.cov)
    kernel = KernelDistance(reference.features, seed=seed)
    # States of a distributed run are reduced where the images are; MPS has no float64.
    home = extractor.device if extractor.device.type == "cuda" else torch.device("cpu")
    frechet, kernel = frechet.to(home), kernel.to(home)
    for batch in _extract(images, extractor, n, "Scoring", batch_size, progress, reference.resolution):
        frechet.update(batch)
        kernel.update(batch)
    with frechet.sync_context():
        counted = int(frechet.count)
    if counted < 4:
        raise UserError(f"{counted} images to score; Fréchet and kernel distances need at least 4")
    mean, std = kernel.compute()
    common = Score(
        metric=extractor.frechet,
        value=float(frechet.compute()),
        std=None,
        n=counted,
        subset_size=None,
        extractor=extractor.name,
        weights_hash=extractor.weights_hash,
        resize=extractor.resize,
        resolution=reference.resolution,
        reference=reference.name,
        reference_key=reference.key,
        reference_n=reference.n,
    )
    size = kernel.size(counted)
    return {
        extractor.frechet: common,
        extractor.kernel: replace(common, metric=extractor.kernel, value=float(mean), std=float(std), subset_size=size),
    }


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
) -> Iterator[Tensor]:
    """Features (b, D) of the first `n` images, in batches, under a progress bar."""
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
                    yield extractor(batch)
                seen += len(batch)
                bar.update(task, completed=seen)
            if seen == n:
                break
    if n is not None and seen < n:
        raise ValueError(f"{description}: {seen} images came; expected {n}")


def _tensors(fields: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in fields.items() if isinstance(value, Tensor)}


def _read(file: Path) -> ReferenceStatistics | None:
    """The statistics in `file`; None where there is none, or a damaged one, which is named."""
    try:
        fields = torch.load(file, map_location="cpu", weights_only=True)
        if fields.pop("checksum") != digest(_tensors(fields)):
            raise ValueError("its checksum does not fit")
        return ReferenceStatistics(**fields)
    except FileNotFoundError:
        return None
    except Exception as error:  # what a damaged file raises is anything from EOFError to UnpicklingError
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        log.warning("reference statistics %s are damaged (%s) and are computed again", file, reason)
        return None


def _write(statistics: ReferenceStatistics, file: Path) -> None:
    """Beside its place, to the disk, then renamed: a reader finds all of it or nothing."""
    fields = asdict(statistics)
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
        log.warning("reference statistics not kept in %s (%s): they are computed again next time", file, error)
