"""Features of images, and statistics of real ones, which are computed once and then read from the cache."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed
from torchmetrics.utilities.distributed import gather_all_tensors

from diffusion.console import progress_bar
from diffusion.errors import UserError, first_line
from diffusion.files import cache_dir, replacing, tensor_digest
from diffusion.metric.estimate import KEPT, Reference, SampleMetric, moments, pool
from diffusion.metric.features import FeatureExtractor
from diffusion.pixels import SHOWN_AS

log = logging.getLogger(__name__)

FIRST = "first"  # the features of the first image: other ones show that the code of an extractor has changed
LEAST = 4  # images, generated or real, that the distances need
FORMAT = 1  # part of the key of a reference, which stands in scores


@dataclass(frozen=True)
class ReferenceStatistics:
    """The features of real images, with their protocol."""

    parts: tuple[Reference, ...]  # the features, and the spatial features if they are wanted
    made_by: tuple[str, str, str]  # the extractor's name, weights_hash, and resize
    resolution: str
    key: str
    name: str


def extract(
    images: Tensor,
    extractor: FeatureExtractor,
    spatial: bool = False,
    gather: bool = True,
    description: str = "scoring images",
) -> Tensor:
    """Features (N, D), or (N, D + S) with `spatial`, of the images of all processes, float32 on the CPU.

    Args:
        images: those of this process, uint8 (n, C, H, W).
        gather: return the features of all processes; False: of this process only.
        description: label of the progress bar.
    """
    features = [torch.empty(0, extractor.num_features + spatial * extractor.num_spatial)]
    together = distributed.is_available() and distributed.is_initialized()
    with progress_bar(enabled=not (together and distributed.get_rank())) as bar:
        task = bar.add_task(description, total=len(images), unit="image", note="")
        for batch in images.split(128 if extractor.device.type == "cuda" else 8) if len(images) else ():
            features.append(extractor(batch, spatial).cpu())
            bar.advance(task, len(batch))
    mine = torch.cat(features)
    if together and gather:
        parts = gather_all_tensors(mine.to(extractor.device if distributed.get_backend() == "nccl" else "cpu"))
        return torch.cat([part.cpu() for part in parts])
    return mine


def described_size(images: Tensor) -> str:
    """`HEIGHTxWIDTH` of images (…, C, H, W), and how grey or RGBA is converted to RGB: `8x8 RGBA over white`."""
    return " ".join(filter(None, ["x".join(map(str, images.shape[-2:])), SHOWN_AS.get(images.shape[-3])]))


def reference_key(images: Tensor, extractor: FeatureExtractor) -> str:
    """16 hexadecimal digits that change with every pixel, the resolution, the resize, the extractor and its weights."""
    made_from = (FORMAT, tensor_digest({"images": images}), extractor.name, extractor.resize, extractor.weights_hash)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]


def reference_statistics(
    images: Tensor, extractor: FeatureExtractor, name: str = "", metrics: Sequence[SampleMetric] = ()
) -> ReferenceStatistics:
    """Statistics of real `images`, uint8 (N, C, H, W). Raises UserError for fewer than 4 images.

    Args:
        name: the reference's name in scores.
        metrics: the metrics to compute; spatial features are extracted if one of them uses them.
    """
    if len(images) < LEAST:
        raise UserError(f"{len(images)} reference images{f' ({name})' if name else ''}; scores need at least {LEAST}")
    key = reference_key(images, extractor)
    spatial = extractor.num_spatial > 0 and any(metric.uses == "spatial" for metric in metrics)
    widths = [extractor.num_features, extractor.num_spatial] if spatial else [extractor.num_features]

    def statistics() -> dict[str, Tensor]:
        features = extract(images, extractor, spatial, gather=False, description="features of the reference")
        found = {}
        for i, part in enumerate(features.split(widths, dim=1)):
            found[f"mean {i}"], found[f"cov {i}"] = moments(part)
            found[f"features {i}"] = pool(part, KEPT)
        return found

    file = cache_dir("statistics") / f"{key}{'-spatial' * spatial}.pt"
    found = _cached(file, extractor(images[:1], spatial).cpu(), statistics)
    parts = [
        Reference(found[f"mean {i}"], found[f"cov {i}"], found[f"features {i}"], len(images))
        for i in range(len(widths))
    ]
    made_by = extractor.name, extractor.weights_hash, extractor.resize
    return ReferenceStatistics(tuple(parts), made_by, described_size(images), key, name)


def features_of(images: Tensor, extractor: FeatureExtractor) -> Tensor:
    """Features (N, D) of real `images`, uint8 (N, C, H, W), as float32 on the CPU; cached."""

    def features() -> dict[str, Tensor]:
        description = f"{extractor.name} features of {len(images)} images"
        return {"features": extract(images, extractor, gather=False, description=description)}

    file = cache_dir("features") / f"{reference_key(images, extractor)}.pt"
    return _cached(file, extractor(images[:1]).cpu(), features)["features"]


def _cached(file: Path, first: Tensor, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in a cache file; made and written if it is missing or damaged, or if `first` has changed.

    Args:
        first: the features of the first image, (1, D); they may differ by the rounding of another device.
    """
    try:
        found: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        if found[FIRST].shape == first.shape and (found[FIRST] - first).norm() <= 0.01 * first.norm():
            return found
    except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
        log.debug("%s: %s", file, error)
    found = make()
    try:
        with replacing(file) as temporary:
            torch.save({**found, FIRST: first}, temporary)
    except OSError as error:
        log.warning("%s can't be written (%s): it will be computed again next time", file, first_line(error))
    return found
