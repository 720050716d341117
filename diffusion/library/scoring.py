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
    reference: str | Path | ImageData | Tensor = "landscapes",
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
        reference: a choice from conf/data, a folder of images, or an `ImageData`, of which a split is used; or real
            images like `images`, of which all are used. A choice or a folder is read in the size and with the channels
            of the images.
        split: the split of the reference: train, val or test.
        features: a choice from conf/features.
        metrics: a choice from conf/metrics.
        device: the device of the feature extractor, as for `load`.
        progress: show progress bars.
    """
    check_images("images", images)
    extractor = make(choice("features", features), "features").to(choose_device(device))
    chosen = make_metrics(choice("metrics", metrics))
    with hiding_bars(not progress):
        if isinstance(reference, Tensor):
            check_images("reference", reference)
            real, name = reference, "images"
        else:
            data = reference if isinstance(reference, ImageData) else data_of(reference, images)
            data.setup()
            if split not in data.splits:
                raise UserError(f"split={split}: expected one of {', '.join(data.splits)}")
            real, name = data.splits[split].images, split
        statistics = reference_statistics(real, extractor, name, chosen)
        return metrics_of.score(images, extractor, statistics, chosen)


def check_images(name: str, images: Tensor) -> None:
    """Raise UserError unless the argument `name` is a tensor uint8 (n, C, H, W)."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in MODES:
        found = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        raise UserError(f"{name}: got {found}; expected uint8 (n, C, H, W), with 1, 3 or 4 channels, which come first")


def data_of(reference: str | Path, images: Tensor) -> ImageData:
    """The data of a choice from conf/data, or of a folder, in the size of the images."""
    if str(reference) not in choices("data") and not Path(reference).expanduser().exists():
        raise UserError(
            f"reference={reference}: no such folder, and no such choice{nearest(str(reference), choices('data'))}; "
            f"choose a folder of images, or one of {', '.join(choices('data'))}"
        )
    channels, height, width = images.shape[1:]
    shape = {"resolution": resolution_of(height, width)} | ({"channels": channels} if channels != 3 else {})
    name, root = (str(reference), {}) if str(reference) in choices("data") else ("folder", {"root": str(reference)})
    data: ImageData = make(choice("data", name, ["+seed=0"], **shape, **root), "data")
    return data
