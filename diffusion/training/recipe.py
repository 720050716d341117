"""The parts of a run, built from its settings and checked against each other."""

from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from diffusion.config.build import check_node, make
from diffusion.config.schema import Train
from diffusion.console import count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.evaluation.drawing import Drawing, make_guidance
from diffusion.pixels import MODES
from diffusion.process.augmentation import Augmentation
from diffusion.process.crops import Crops
from diffusion.process.denoiser import Denoiser
from diffusion.process.guidance import Guidance
from diffusion.process.prediction import Prediction
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams
from diffusion.training.checks import check_size

RGB = 3  # the channels of the images that conf/model is for
LATER = ("trainer", "logger", "callbacks", "features", "metrics")  # built when the images are there


@dataclass(frozen=True)
class Recipe:
    """What a run's settings describe, as objects."""

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
    worse: Denoiser | None  # the guidance's other model
    ema: Callback | None

    @classmethod
    def build(cls, settings: Train) -> "Recipe":
        """Raises UserError for what cannot be built or does not fit."""
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
        recipe.sampler.grid(recipe.schedule, recipe.sampler.steps)  # raises where a table cannot give as many steps
        check_size(data, network, recipe.crops)
        return recipe

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self.data.shape

    @property
    def share(self) -> float:
        """Of the pixels of an image, what a training step sees."""
        return self.crops.share if self.crops else 1.0

    def drawing(self, seed: int) -> Drawing:
        """How samples are drawn: where images have labels, of each class as often as in training."""
        counts = dict(zip(self.data.classes, self.data.class_counts("train"), strict=True))
        return Drawing(self.sampler, self.shape, seed, self.guidance, self.worse, counts)


def with_channels(settings: Train) -> Train:
    """The settings with a network for the channels of the images: `in_channels`, and `out_channels` in proportion.

    Raises UserError where `model.in_channels` is set to another number.
    """
    channels, model = settings.data.get("channels", RGB), settings.model
    given = model.get("in_channels", channels)
    if given == channels or channels not in MODES:  # what is not a number of channels is refused with the data
        return settings
    if given != RGB:
        raise UserError(
            f"model.in_channels={given}: the images have {count(channels, 'channel')}; leave it out, and it follows "
            "data.channels"
        )
    out = model.get("out_channels", RGB)
    fitting = {"in_channels": channels} | ({"out_channels": out // RGB * channels} if "out_channels" in model else {})
    return settings.model_copy(update={"model": {**model, **fitting}})


def with_augmentation(settings: Train) -> Train:
    """The settings with a network that takes the labels of the augmentation: `model.augment` is their number.

    Raises UserError for a network that takes none, and where `model.augment` is set to another number.
    """
    given, wanted = settings.model.get("augment"), 0
    if settings.augmentation:
        augmentation: Augmentation = make(settings.augmentation, "augmentation")
        wanted = augmentation(torch.zeros(1, 1, 8, 8), Streams([0]))[1].shape[1]
        if given is None:
            raise UserError(
                "augmentation: the model has no setting `augment`, so it can't be told how images were changed; choose "
                "another model, such as model=unet_small, or augmentation=none"
            )
    if given not in (None, 0, wanted):
        raise UserError(f"model.augment={given}: the augmentation has {wanted} labels; leave it out, and it follows")
    return settings.model_copy(update={"model": {**settings.model, "augment": wanted}}) if wanted else settings


def with_coordinates(settings: Train) -> Train:
    """The settings with a network that is told where parts of images are, if there are any: `model.coordinates`.

    Raises UserError for a network that cannot be told.
    """
    if not settings.crops:
        return settings
    if "coordinates" not in settings.model:
        raise UserError(
            "crops: the model has no setting `coordinates`, so it can't be told where a part of an image is; choose "
            "another model, such as model=unet_small, or crops=none"
        )
    return settings.model_copy(update={"model": {**settings.model, "coordinates": True}})


def with_classes(settings: Train, recipe: Recipe) -> tuple[Train, Recipe]:
    """The settings and the recipe with a network for the classes of the data, which is set up.

    Raises UserError where `model.classes` is set to another number, or the network has no such setting.
    """
    known, given = len(recipe.data.classes), settings.model.get("classes")
    if known == (given or 0):
        return settings, recipe
    if given:
        raise UserError(
            f"model.classes={given}: the data has {known or 'no'} classes; leave it out, and it follows data.labels"
        )
    if "classes" not in settings.model:
        raise UserError("data.labels: the model has no setting `classes`, so it takes no labels; choose another model")
    changed = settings.model_copy(update={"model": {**settings.model, "classes": known}})
    pl.seed_everything(settings.seed, verbose=False)
    return changed, replace(Recipe.build(changed), data=recipe.data)
