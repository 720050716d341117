"""Statistics and features of real images, computed once and then read from the cache."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from diffusion.errors import UserError, first_line
from diffusion.files import cache_dir, replacing, tensor_digest
from diffusion.metric.estimate import KEPT, Reference, moments, pool
from diffusion.metric.extract import described_size, extract
from diffusion.metric.features import FeatureExtractor

log = logging.getLogger(__name__)

FIRST = "first"  # the features of the first image: other ones show that the code of an extractor has changed
LEAST = 4  # images, generated or real, that the distances need
FORMAT = 1  # part of the key of a reference, which stands in scores


@dataclass(frozen=True)
class ReferenceStatistics(Reference):
    """A reference with its protocol."""

    extractor: str
    weights_hash: str
    resize: str
    resolution: str
    key: str
    name: str = ""
    spatial: "ReferenceStatistics | None" = None  # of the spatial features, if requested


def reference_key(images: Tensor, extractor: FeatureExtractor) -> str:
    """16 hexadecimal digits that change with every pixel, the resolution, the resize, the extractor and its weights."""
    made_from = (FORMAT, tensor_digest({"images": images}), extractor.name, extractor.resize, extractor.weights_hash)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]


def reference_statistics(
    images: Tensor,
    extractor: FeatureExtractor,
    name: str = "",
    spatial: bool = False,
) -> ReferenceStatistics:
    """Statistics of real `images`, uint8 (N, C, H, W) with N at least 4.

    Raises UserError for fewer images, or if `spatial` is set and the extractor has no spatial features.

    Args:
        name: the reference's name in scores.
        spatial: also compute the statistics of the spatial features.
    """
    if len(images) < LEAST:
        raise UserError(f"{len(images)} reference images{f' ({name})' if name else ''}; scores need at least {LEAST}")
    key = reference_key(images, extractor)
    widths = [extractor.num_features, extractor.num_spatial] if spatial else [extractor.num_features]

    def statistics() -> dict[str, Tensor]:
        description = "features of the reference"
        features = extract(images, extractor, spatial=spatial, gather=False, description=description)
        found = {}
        for i, part in enumerate(features.split(widths, dim=1)):
            found[f"mean {i}"], found[f"cov {i}"] = moments(part)
            found[f"features {i}"] = pool(part, KEPT)
        return found

    file = cache_dir("statistics") / f"{key}{'-spatial' * spatial}.pt"
    found = _cached(file, extractor(images[:1], spatial).cpu(), statistics)
    protocol = (extractor.name, extractor.weights_hash, extractor.resize, described_size(images), key)
    both = [
        ReferenceStatistics(found[f"mean {i}"], found[f"cov {i}"], found[f"features {i}"], len(images), *protocol)
        for i in range(len(widths))
    ]
    return replace(both[0], name=name, spatial=both[1] if spatial else None)


def features_of(images: Tensor, extractor: FeatureExtractor, keep: bool = False) -> Tensor:
    """Features (N, D) of this process's `images`, uint8 (N, C, H, W), as float32 on the CPU.

    Args:
        keep: cache the features, for real images.
    """

    def features() -> dict[str, Tensor]:
        description = f"{extractor.name} features of {len(images)} images"
        return {"features": extract(images, extractor, gather=False, description=description)}

    if not keep:
        return features()["features"]
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
    except FileNotFoundError:
        pass
    except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
        log.warning("%s is damaged (%s) and will be made again", file, first_line(error))
    found = make()
    try:
        with replacing(file) as temporary:
            torch.save({**found, FIRST: first}, temporary)
    except OSError as error:
        log.warning("%s can't be written (%s): it will be computed again next time", file, error)
    return found
