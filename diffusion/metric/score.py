"""Features of images, and scores against those of real images, each with its protocol; and baselines.

Baselines are scored by the same functions: images of noise, other real images that `draw` chooses, and `split_half`,
two sets that `divide` makes of real images.
"""

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed
from torchmetrics.utilities.distributed import gather_all_tensors

from diffusion.base.console import progress_bar
from diffusion.base.files import cache_dir, replacing, tensor_digest
from diffusion.errors import UserError, first_line, refusing
from diffusion.metric import record
from diffusion.metric.distances import FrechetDistance, KernelDistance
from diffusion.metric.estimate import LEVEL, RealSet, SampleMetric, moments, order_of
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.photographs import photographs_of
from diffusion.randomness import generator_for

log = logging.getLogger(__name__)
warn_once = cache(log.warning)  # samples and their baselines lack the same metrics for the same reasons

DISTANCES: tuple[SampleMetric, ...] = (FrechetDistance(), KernelDistance())
LEAST = 4  # images, generated or real, that the distances need


def extract(
    images: Tensor, extractor: FeatureExtractor, gather: bool = True, description: str = "scoring images"
) -> Tensor:
    """Features (N, D) of the images of all processes, float32 on the CPU.

    Args:
        images: those of this process, uint8 (n, C, H, W).
        gather: return the features of all processes; False: of this process only.
        description: label of the progress bar.
    """
    features = [] if len(images) else [torch.empty(0, extractor.num_features)]
    together = distributed.is_available() and distributed.is_initialized()
    with progress_bar(enabled=not (together and distributed.get_rank())) as bar:
        task = bar.add_task(description, total=len(images), unit="image", note="")
        for batch in images.split(128 if extractor.device.type == "cuda" else 8) if len(images) else ():
            features.append(extractor(batch).cpu())
            bar.advance(task, len(batch))
    mine = torch.cat(features)
    if together and gather:
        parts = gather_all_tensors(mine.to(extractor.device if distributed.get_backend() == "nccl" else "cpu"))
        return torch.cat([part.cpu() for part in parts])
    return mine


def features_of(images: Tensor, extractor: FeatureExtractor) -> tuple[Tensor, str]:
    """The features of real `images`, uint8 (N, C, H, W), which are cached, and their key.

    It has 16 hexadecimal digits, which change with every pixel, the resolution, the resize and the extractor.
    """
    made_from = (1, tensor_digest({"images": images}), extractor.name, extractor.resize, extractor.weights_hash)
    key = hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]
    file, first, features = cache_dir("features") / f"{key}.pt", extractor(images[:1]).cpu(), None
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)["features"]
        features = found if (found[:1] - first).norm() <= 0.01 * first.norm() else None  # None: other code made them
    except Exception as error:  # missing, or damaged, which raises anything from EOFError to UnpicklingError
        log.debug("%s: %s", file, error)
    if features is None:
        features = extract(images, extractor, gather=False, description="features of real images")
        try:
            with replacing(file) as temporary:
                torch.save({"features": features}, temporary)
        except OSError as error:
            log.warning("%s can't be written (%s): it will be computed again next time", file, first_line(error))
    return features, key


def reference_of(
    images: Tensor, extractor: FeatureExtractor, name: str = "", sources: Sequence[str] = (), size: str = ""
) -> RealSet:
    """The reference of real `images`, (N, C, *size), by its name in scores, which also say their `size`.

    If `sources` names one photograph for several images, errors of scores are those over other photographs. Raises
    UserError for fewer than 4 images.
    """
    if len(images) < LEAST:
        raise UserError(f"{len(images)} reference images{f' ({name})' if name else ''}; scores need at least {LEAST}")
    features, key = features_of(images, extractor)
    size = size or "x".join(map(str, images.shape[2:]))
    made_by = {"features": extractor.name, "weights_hash": extractor.weights_hash, "resize": extractor.resize}
    found = RealSet.of(features, photographs_of(sources))
    return replace(found, name=name, key=key, protocol=made_by | {"resolution": size})


def statistics_of(file: Path, extractor: FeatureExtractor) -> RealSet:
    """The reference of published statistics: an .npz file with `mu` (D,) and `sigma` (D, D), of EDM, OpenAI and others.

    It has no features, so there is only the Fréchet distance to it. Raises UserError if it is none, or one for other
    features.
    """
    wanted = "an .npz file with mu (D,) and sigma (D, D), maybe converted from a .pkl file as in docs/data.md"
    with refusing(f"reference={file}", f"; expected {wanted}"):
        with np.load(file, allow_pickle=False) as arrays:
            mean, cov = (torch.from_numpy(arrays[name]).double() for name in ("mu", "sigma"))
        if cov.shape != 2 * mean.shape or not (mean.isfinite().all() and cov.isfinite().all()):
            raise ValueError(f"mu {tuple(mean.shape)} and sigma {tuple(cov.shape)}, maybe not finite")
    if len(mean) != extractor.num_features:
        found = f"statistics of {len(mean)} features, but {extractor.name} has {extractor.num_features}"
        raise UserError(f"reference={file}: {found}; set features=inception for 2048, dinov2 for 1024")
    made_by = {"features": extractor.name, "weights_hash": extractor.weights_hash, "resize": extractor.resize}
    key = tensor_digest({"mean": mean, "cov": cov})[:16]
    return RealSet(mean, cov, torch.empty(0, len(mean)), file.name, key, made_by)


def score(
    features: Tensor,
    extractor: FeatureExtractor,
    reference: RealSet,
    metrics: Sequence[SampleMetric] = DISTANCES,
    photographs: Tensor | None = None,
) -> dict[str, record.Score]:
    """Compute `metrics` from the features (N, D) that the extractor of the reference made; the scores by name.

    `photographs` (N,) are the numbers of those of the scored images, if these are real and not independent.
    A metric that lacks images is left out, with a warning. Raises UserError for fewer than 4 images or if no
    metric is left.
    """
    if len(features) < LEAST:
        raise UserError(f"{len(features)} images to score; Fréchet and kernel distances need at least {LEAST}")
    found = {}
    for (part, (x, to)), metric in product(extractor.parts(features, reference).items(), metrics):
        try:
            estimates = metric.measure(x, to, photographs)
        except UserError as error:  # too few images
            warn_once(f"{type(metric).__name__}: skipped ({error})")
            continue
        for short, estimate in estimates.items():
            name, (low, high) = extractor.named(f"{short}/{part}" if part else short), estimate.interval()
            found[name] = record.Score(
                metric=name,
                value=estimate.value,
                error=None if math.isnan(estimate.error) else estimate.error,
                samples_error=estimate.samples_error,
                low=low,
                high=high,
                level=LEVEL,
                std=estimate.std,
                n=len(features),
                settings=metric.settings_for(len(features), len(reference.features)),
                reference=record.Reference(reference.name, len(reference.features) or None, reference.key),
                **reference.protocol,
            )
    if metrics and not found:
        raise UserError(f"none of the chosen metrics works for {len(features)} images and {extractor.name} features")
    return found


def draw(images: Tensor, n: int) -> Tensor:
    """`n` of `images`, drawn at random without replacement, always the same; all of them if there are fewer."""
    return images[torch.randperm(len(images), generator=generator_for(0, "draw"))[:n]]


def divide(features: Tensor, reference: RealSet, seed: int = 0) -> tuple[Tensor, RealSet]:
    """Mix real `features` with the reference's, and divide them at random into sets of the same two sizes.

    The score of these two sets is `split_half`: the value for sets of real images that differ only by chance. The sizes
    are N of `features` and the reference's M. The new reference has the name and key of the old one, but no
    photographs: both sets are of the same ones.
    """
    both = torch.cat([features[order_of(features)], reference.features])
    both = both[torch.randperm(len(both), generator=generator_for(seed, "divide"))]
    ours, rest = both[: len(features)], both[len(features) :]
    mean, cov = moments(rest)
    return ours, replace(reference, mean=mean, cov=cov, features=rest, photographs=None)
