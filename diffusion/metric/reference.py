"""Statistics and features of real images, computed once and then read from the cache."""

import hashlib
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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
FORMAT = 1  # version of the cached statistics; increase it when their content changes


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


def _same(before: Tensor | None, now: Tensor) -> bool:
    """Whether the features of one image are equal up to the rounding of another device."""
    return before is not None and before.shape == now.shape and bool((before - now).norm() <= 0.01 * now.norm())


def reference_statistics(
    images: Tensor,
    extractor: FeatureExtractor,
    name: str = "",
    spatial: bool = False,
) -> ReferenceStatistics:
    """Statistics of real `images`, uint8 (N, C, H, W) with N at least 4. A damaged cache file is logged and replaced.

    Raises UserError for fewer images, or if `spatial` is set and the extractor has no spatial features.

    Args:
        name: the reference's name in scores.
        spatial: also compute the statistics of the spatial features.
    """
    if len(images) < LEAST:
        raise UserError(f"{len(images)} reference images{f' ({name})' if name else ''}; scores need at least {LEAST}")
    key = reference_key(images, extractor)
    widths = {"": extractor.num_features} | ({"-spatial": extractor.num_spatial} if spatial else {})
    files = [cache_dir("reference") / f"{key}{kind}.pt" for kind in widths]
    cached = [_read(file, "reference statistics") for file in files]
    first = extractor(images[:1], spatial).cpu().split([*widths.values()], dim=1)
    found = [
        ReferenceStatistics(**{name: value for name, value in fields.items() if name != FIRST})
        for fields, now in zip(cached, first, strict=True)
        if fields is not None and _same(fields.get(FIRST), now)
    ]
    found = [known for known in found if len(known.features) == min(known.n, KEPT)]  # an earlier version kept fewer
    if len(found) < len(files):
        description = "features of the reference"
        features = extract(images, extractor, spatial=spatial, gather=False, description=description)
        parts = features.split([*widths.values()], dim=1)
        found = [_statistics(part, images, extractor, key) for part in parts]
        for file, statistics, now in zip(files, found, first, strict=True):
            _write({**asdict(statistics), FIRST: now}, file, "reference statistics")
    return replace(found[0], name=name, spatial=found[1] if spatial else None)


def features_of(images: Tensor, extractor: FeatureExtractor, keep: bool = False) -> Tensor:
    """Features (N, D) of this process's `images`, uint8 (N, C, H, W), as float32 on the CPU.

    Args:
        keep: cache the features, for real images. A damaged cache file is logged and replaced.
    """
    file = cache_dir("features") / f"{reference_key(images, extractor)}.pt" if keep else None
    if file is not None and (cached := _read(file, "features")) is not None:
        known: Tensor = cached["features"]
        if _same(known[:1], extractor(images[:1]).cpu()):
            return known
    description = f"{extractor.name} features of {len(images)} images"
    features = extract(images, extractor, gather=False, description=description)
    if file is not None:
        _write({"features": features}, file, "features")
    return features


def _statistics(features: Tensor, images: Tensor, extractor: FeatureExtractor, key: str) -> ReferenceStatistics:
    """The statistics of the features (N, D) of `images` by `extractor`."""
    mean, cov = moments(features)
    return ReferenceStatistics(
        mean=mean,
        cov=cov,
        features=pool(features, KEPT),
        n=len(images),
        extractor=extractor.name,
        weights_hash=extractor.weights_hash,
        resize=extractor.resize,
        resolution=described_size(images),
        key=key,
    )


def _checksum(fields: dict[str, Any]) -> str:
    return tensor_digest({name: value for name, value in fields.items() if isinstance(value, Tensor)})


def _read(file: Path, what: str) -> dict[str, Any] | None:
    """The fields in a cache file; None if it is missing or damaged. Damage is logged."""
    try:
        fields = torch.load(file, map_location="cpu", weights_only=True)
        if fields.pop("checksum") != _checksum(fields):
            raise ValueError("wrong checksum")
        return fields
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
        log.warning("%s %s are damaged (%s) and will be recomputed", what, file, first_line(error))
        return None


def _write(fields: dict[str, Any], file: Path, what: str) -> None:
    """Write the fields to a cache file, or log why that fails."""
    try:
        with replacing(file, durable=True) as temporary:
            torch.save({**fields, "checksum": _checksum(fields)}, temporary)
    except OSError as error:
        log.warning("%s not written to %s (%s): they will be recomputed next time", what, file, error)
