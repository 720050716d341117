"""Statistics and features of real images: made once, then read from the cache."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.files import cache_dir, replacing
from diffusion.metric.digest import digest
from diffusion.metric.distances import Moments
from diffusion.metric.estimate import Reference, pool
from diffusion.metric.extract import in_batches, resolution_of
from diffusion.metric.features import FeatureExtractor

log = logging.getLogger(__name__)

FORMAT = 1  # of the cached statistics; a change of what they hold or how they are made counts it up
KEPT = {"reference": "reference statistics", "features": "features"}  # in folders of the cache

Kept = TypeVar("Kept")


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
        for batch in in_batches(images, extractor, None, "Reference features", batch_size, progress, spatial=spatial):
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
                resolution=resolution_of(images),
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
        return torch.cat([batch.cpu() for batch in in_batches(images, extractor, None, what, None, progress)])

    if not keep:
        return made()
    file = cache_dir("features") / f"{reference_key(images, extractor)}.pt"
    features = _read(file, itemgetter("features"))
    if features is None:
        features = made()
        _write({"features": features}, file)
    return features


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
    """Keep the fields in a cache file, or log why they can't be kept."""
    try:
        with replacing(file) as temporary:
            torch.save({**fields, "checksum": digest(_tensors(fields))}, temporary)
            temporary.flush()
            os.fsync(temporary.fileno())
    except OSError as error:
        what = KEPT[file.parent.name]
        log.warning("%s not kept in %s (%s): they are computed again next time", what, file, error)
