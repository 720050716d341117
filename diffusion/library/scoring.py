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
from diffusion.library.arguments import choice_name, described, shown
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
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
        raise UserError(f"images: got {described(images)}; expected a uint8 tensor of shape (n, C, H, W)")
    if images.shape[1] not in MODES:
        fix = "expected 1, 3 or 4 channels"
        if images.shape[3] in MODES:
            fix = "channels come first: images.permute(0, 3, 1, 2)"
        raise UserError(f"images: got {described(images)}; {fix}")
    metrics_of.check_number(len(images))
    extractor = make(choice("features", choice_name("features", features, "auto")), "features").to(
        choose_device(device)
    )
    with hiding_bars(not progress):
        factories = make_metrics(choice("metrics", choice_name("metrics", metrics, "standard")))
        spatial = metrics_of.wants_spatial(factories, extractor)
        if isinstance(reference, Tensor):
            if reference.dtype != torch.uint8 or reference.shape[1:] != images.shape[1:]:
                raise UserError(
                    f"reference: got {described(reference)}; expected real images like the images, {described(images)}"
                )
            real = reference_statistics(reference, extractor, name="images", spatial=spatial)
        else:
            data = reference if isinstance(reference, ImageData) else _data(reference, images)
            data.setup()
            if split not in data.splits:
                raise UserError(f"split={split}: expected one of {', '.join(data.splits)}")
            real = reference_statistics(data.splits[split].images, extractor, name=split, spatial=spatial)
        return metrics_of.score(images, extractor, real, metrics=factories)


def _data(reference: str | Path, images: Tensor) -> ImageData:
    if not isinstance(reference, str | Path):
        raise UserError(
            f"reference={shown(reference)}: expected a choice from conf/data, a folder, an ImageData, or a uint8 "
            "tensor of shape (n, C, H, W)"
        )
    if reference not in choices("data") and not Path(reference).expanduser().exists():
        raise UserError(
            f"reference={reference}: no such folder, and no such choice{nearest(str(reference), choices('data'))}; "
            f"choose a folder of images, or one of {', '.join(choices('data'))}"
        )
    channels, height, width = images.shape[1:]
    shape = {"resolution": resolution_of(height, width)} | ({"channels": channels} if channels != 3 else {})
    name, root = (reference, {}) if reference in choices("data") else ("folder", {"root": str(reference)})
    data: ImageData = make(choice("data", str(name), ["+seed=0"], **shape, **root), "data")
    return data
