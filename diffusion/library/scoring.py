"""`diffusion.score`: score images against real ones, for notebooks and programs."""

from pathlib import Path

import torch
from torch import Tensor

from diffusion.config.build import make
from diffusion.config.choices import choices
from diffusion.config.composition import choice
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.evaluation.devices import choose_device
from diffusion.evaluation.pipeline import make_metrics
from diffusion.library.arguments import described
from diffusion.metric import score as metrics_of
from diffusion.metric.record import Score
from diffusion.metric.reference import reference_statistics
from diffusion.pixels import resolution_of


def score(
    images: Tensor,
    reference: str | Path | ImageData = "landscapes",
    split: str = "val",
    features: str = "auto",
    metrics: str = "standard",
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Score]:
    """Score images against real ones; the scores by name: `score(images)["fd_lite0"].value`.

    Each score includes its interval (`low`, `high`) and its protocol. Raises UserError for images that are not such a
    tensor, for fewer than 4, and for a reference that does not exist.

    Args:
        images: uint8 (n, C, H, W), grey, RGB or RGBA.
        reference: a choice from conf/data, a folder of images, or an `ImageData`. A choice or a folder is read in the
            size and with the channels of the images.
        split: the split of the reference: train, val or test.
        features: a choice from conf/features.
        metrics: a choice from conf/metrics.
        device: the device of the feature extractor: auto, cpu, cuda, cuda:1, mps.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
        raise UserError(f"images: got {described(images)}; expected a uint8 tensor of shape (n, C, H, W)")
    extractor = make(choice("features", features), "features").to(choose_device(device))
    data = reference if isinstance(reference, ImageData) else _data(reference, images)
    data.prepare_data()
    if split not in data.splits:
        raise UserError(f"split={split}: expected one of {', '.join(data.splits)}")
    factories = make_metrics(choice("metrics", metrics))
    spatial = metrics_of.wants_spatial(factories, extractor)
    real = reference_statistics(data.splits[split].images, extractor, name=split, spatial=spatial)
    return metrics_of.score(images, extractor, real, progress=progress, metrics=factories)


def _data(reference: str | Path, images: Tensor) -> ImageData:
    channels, height, width = images.shape[1:]
    shape = {"resolution": resolution_of(height, width)} | ({"channels": channels} if channels != 3 else {})
    name, root = (reference, {}) if reference in choices("data") else ("folder", {"root": str(reference)})
    data: ImageData = make(choice("data", str(name), ["+seed=0"], **shape, **root), "data")
    return data
