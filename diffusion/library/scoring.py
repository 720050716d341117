"""`diffusion.score`: score images against real ones, for notebooks and programs."""

from pathlib import Path

import torch
from torch import Tensor

from diffusion.config.build import make
from diffusion.config.choices import choices
from diffusion.config.composition import choice
from diffusion.console import hiding_bars
from diffusion.data import ImageData
from diffusion.errors import UserError, nearest
from diffusion.evaluation.devices import choose_device
from diffusion.evaluation.pipeline import make_metrics
from diffusion.metric import score as metrics_of
from diffusion.metric.record import Score
from diffusion.metric.reference import reference_statistics
from diffusion.pixels import MODES, resolution_of


def score(
    images: Tensor,
    reference: str | Path | Tensor = "landscapes",
    split: str = "val",
    features: str = "auto",
    metrics: str = "standard",
    device: str | int | torch.device = "auto",
    progress: bool = True,
) -> dict[str, Score]:
    """Score images against real ones; the scores by name: `score(images)["fd_lite0"].value`.

    Each score includes its interval (`low`, `high`) and its protocol. Raises UserError for images that are not such a
    tensor, for fewer than 4, and for a reference that does not exist.

    Args:
        images: uint8 (n, C, H, W), grey, RGB or RGBA.
        reference: real images like `images`; or a choice from conf/data or a folder of images, which is read in the
            size and with the channels of the images, and of which a split is used: train, val or test.
        features, metrics: choices from conf/features and conf/metrics.
        device: the device of the feature extractor, as for `load`.
    """
    extractor = make(choice("features", features), "features").to(choose_device(device))
    chosen = make_metrics(choice("metrics", metrics))
    check("images", images)
    with hiding_bars(not progress):
        if isinstance(reference, Tensor):
            check("reference", reference)
            real, split = reference, "images"
        else:
            real = images_of(str(reference), split, images)
        return metrics_of.score(images, extractor, reference_statistics(real, extractor, split, chosen), chosen)


def check(name: str, images: Tensor) -> None:
    """Raise UserError unless the argument `name` is a tensor uint8 (n, C, H, W)."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in MODES:
        found = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        raise UserError(f"{name}: got {found}; expected uint8 (n, C, H, W), with 1, 3 or 4 channels, which come first")


def images_of(reference: str, split: str, like: Tensor) -> Tensor:
    """The images of a split of a choice from conf/data, or of a folder, in the size of others."""
    known = choices("data")
    if reference not in known and not Path(reference).expanduser().exists():
        near = nearest(reference, known)
        raise UserError(f"reference={reference}: no such folder{near}; choose a folder, or one of {', '.join(known)}")
    channels, height, width = like.shape[1:]
    settings = {"resolution": resolution_of(height, width)} | ({"channels": channels} if channels != 3 else {})
    name, root = (reference, {}) if reference in known else ("folder", {"root": reference})
    data: ImageData = make(choice("data", name, ["+seed=0"], **settings, **root), "data")
    data.setup()
    if split not in data.splits:
        raise UserError(f"split={split}: expected one of {', '.join(data.splits)}")
    return data.splits[split].images
