"""The parts of a run, built from its settings and checked against each other."""

from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from diffusion.config.build import check_node, make
from diffusion.config.schema import Train
from diffusion.config.validation import shown
from diffusion.console import count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.evaluation.drawing import Drawing, make_guidance
from diffusion.pixels import MODES, resolution_of
from diffusion.process.augmentation import Augmentation
from diffusion.process.crops import Crops
from diffusion.process.denoiser import Denoiser
from diffusion.process.guidance import Guidance
from diffusion.process.prediction import Prediction
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams

RGB = 3  # the image channels that conf/model assumes
LATER = ("trainer", "logger", "callbacks", "features", "metrics")  # built after the images are read


@dataclass(frozen=True)
class Recipe:
    """The objects that a run's settings describe."""

    data: ImageData
    network: nn.Module
    schedule: Schedule
    prediction: Prediction
    objective: Any
    optimizer: Any  # parameters -> Optimizer
    augmentation: Augmentation | None
    crops: Crops | None
    lr_scheduler: Any  # (optimizer, total_steps) -> LRScheduler
    sampler: Sampler
    guidance: Guidance | None
    worse: Denoiser | None  # the weaker model that guidance uses
    ema: Callback | None

    @classmethod
    def build(cls, settings: Train) -> "Recipe":
        """Build the objects. Raises UserError if one cannot be built or does not fit the others."""
        for group in LATER:
            check_node(settings.model_dump().get(group), group)
        data: ImageData = make(settings.data, "data")
        network = make(settings.model, "model")
        guidance, worse = make_guidance(settings.guidance, data.shape, settings.label_dropout, None)
        recipe = cls(
            data=data,
            network=network,
            schedule=make(settings.schedule, "schedule"),
            prediction=make(settings.prediction, "prediction"),
            objective=make(settings.objective, "objective"),
            optimizer=make(settings.optimizer, "optimizer"),
            augmentation=make(settings.augmentation, "augmentation") if settings.augmentation else None,
            crops=make(settings.crops, "crops") if settings.crops else None,
            lr_scheduler=make(settings.lr_scheduler, "lr_scheduler"),
            sampler=make(settings.sampler, "sampler"),
            guidance=guidance,
            worse=worse,
            ema=make(settings.ema, "ema") if settings.ema else None,
        )
        recipe.sampler.grid(recipe.schedule, recipe.sampler.steps)  # raises if a schedule's table has fewer steps
        check_size(data, network, recipe.crops)
        return recipe

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self.data.shape

    @property
    def share(self) -> float:
        """The fraction of an image's pixels that a training step sees."""
        return self.crops.share if self.crops else 1.0

    def drawing(self, seed: int) -> Drawing:
        """Return how to draw samples; with labels, each class is as frequent as in the training images."""
        counts = dict(zip(self.data.classes, self.data.class_counts("train"), strict=True))
        return Drawing(self.sampler, self.shape, seed, self.guidance, self.worse, counts)


def check_size(data: ImageData, network: nn.Module, crops: Crops | None) -> None:
    """Reject images or crops with sides that are not multiples of the network's `downsampling`."""
    factor, (_, height, width) = int(getattr(network, "downsampling", 1)), data.shape
    if height % factor or width % factor:
        near = [max(factor, round(side / factor) * factor) for side in (height, width)]
        found, fitting = (shown(resolution_of(h, w)) for h, w in ((height, width), near))
        what = "a multiple" if height == width else "multiples"
        raise UserError(
            f"data.resolution={found}: the network needs {what} of {factor}, such as data.resolution={fitting}"
        )
    if crops is not None:
        crops.check(height, width, factor)


def with_channels(settings: Train) -> Train:
    """Return the settings with `in_channels` for the channels of the images, and `out_channels` in proportion.

    Raises UserError if `model.in_channels` is set to a different number.
    """
    channels, model = settings.data.get("channels", RGB), settings.model
    given = model.get("in_channels", channels)
    if given == channels or channels not in MODES:  # an invalid number of channels is rejected with the data
        return settings
    if given != RGB:
        raise UserError(
            f"model.in_channels={given}: the images have {count(channels, 'channel')}; remove it, and it follows "
            "data.channels"
        )
    out = model.get("out_channels", RGB)
    fitting = {"in_channels": channels} | ({"out_channels": out // RGB * channels} if "out_channels" in model else {})
    return settings.model_copy(update={"model": {**model, **fitting}})


def with_augmentation(settings: Train) -> Train:
    """Return the settings with `model.augment` set to the number of labels of the augmentation.

    Raises UserError if the network has no such setting, or if `model.augment` is set to a different number.
    """
    given, wanted = settings.model.get("augment"), 0
    if settings.augmentation:
        augmentation: Augmentation = make(settings.augmentation, "augmentation")
        wanted = augmentation(torch.zeros(1, 1, 8, 8), Streams([0]))[1].shape[1]
        if given is None:
            raise UserError(
                "augmentation: the model has no setting `augment`, so it cannot be conditioned on the augmentation; "
                "choose another model, such as model=unet_small, or augmentation=none"
            )
    if given not in (None, 0, wanted):
        raise UserError(f"model.augment={given}: the augmentation has {wanted} labels; remove it, and it follows")
    return settings.model_copy(update={"model": {**settings.model, "augment": wanted}}) if wanted else settings


def with_coordinates(settings: Train) -> Train:
    """Return the settings with `model.coordinates` enabled if there are crops: the network needs their positions.

    Raises UserError if the network has no such setting.
    """
    if not settings.crops:
        return settings
    if "coordinates" not in settings.model:
        raise UserError(
            "crops: the model has no setting `coordinates`, so it cannot be conditioned on the position of a crop; "
            "choose another model, such as model=unet_small, or crops=none"
        )
    return settings.model_copy(update={"model": {**settings.model, "coordinates": True}})


def with_classes(settings: Train, recipe: Recipe) -> tuple[Train, Recipe]:
    """Return the settings and the recipe with `model.classes` set to the number of classes of the data.

    The data must be set up. Raises UserError if `model.classes` is set to a different number, or the network has no
    such setting.
    """
    known, given = len(recipe.data.classes), settings.model.get("classes")
    if known == (given or 0):
        return settings, recipe
    if given:
        raise UserError(
            f"model.classes={given}: the data has {known or 'no'} classes; remove it, and it follows data.labels"
        )
    if "classes" not in settings.model:
        raise UserError(
            "data.labels: the model has no setting `classes`, so it cannot use labels; choose another model"
        )
    changed = settings.model_copy(update={"model": {**settings.model, "classes": known}})
    pl.seed_everything(settings.seed, verbose=False)
    return changed, replace(Recipe.build(changed), data=recipe.data)
