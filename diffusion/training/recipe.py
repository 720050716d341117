"""The parts of a run, built from its settings and checked against each other."""

from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from diffusion.checkpoint.restore import Restored
from diffusion.config.build import check_node, make
from diffusion.config.schema import Train
from diffusion.config.untrusted import PARTS, has_directives
from diffusion.config.validation import shown
from diffusion.console import count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.evaluation.drawing import Drawing, check_classes, make_guidance
from diffusion.pixels import MODES, height_width, resolution_of
from diffusion.process.augmentation import Augmentation
from diffusion.process.crops import Crops
from diffusion.process.grid import mostly_noise
from diffusion.process.guidance import Guidance
from diffusion.process.prediction import Prediction
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams
from diffusion.training.ema import EMA

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
    worse: Restored | None  # the weaker model that guidance uses
    ema: EMA | None

    @classmethod
    def build(cls, settings: Train) -> "Recipe":
        """Build the objects. Raises UserError if one cannot be built or does not fit the others."""
        for group in LATER:
            check_node(settings.model_dump().get(group), group)
        data: ImageData = make(settings.data, "data", ImageData)
        network = make(settings.model, "model", nn.Module)
        guidance, worse = make_guidance(settings.guidance, data.shape, settings.label_dropout, None)
        recipe = cls(
            data=data,
            network=network,
            schedule=make(settings.schedule, "schedule", Schedule),
            prediction=make(settings.prediction, "prediction", Prediction),
            objective=make(settings.objective, "objective", nn.Module),
            optimizer=make(settings.optimizer, "optimizer"),
            augmentation=make(settings.augmentation, "augmentation") if settings.augmentation else None,
            crops=make(settings.crops, "crops") if settings.crops else None,
            lr_scheduler=make(settings.lr_scheduler, "lr_scheduler"),
            sampler=make(settings.sampler, "sampler", Sampler),
            guidance=guidance,
            worse=worse,
            ema=make(settings.ema, "ema", Callback) if settings.ema else None,
        )
        recipe.sampler.grid(recipe.schedule, recipe.sampler.steps)  # raises if a schedule's table has fewer steps
        check_size(data, network, recipe.crops)
        check_restorable(settings, data, network)
        return recipe

    @property
    def share(self) -> float:
        """The fraction of an image's pixels that a training step sees."""
        return self.crops.share if self.crops else 1.0

    def drawing(self, seed: int, precision: str | None = None) -> Drawing:
        """Return how to draw samples; with labels, each class is as frequent as in the training images."""
        counts = dict(zip(self.data.classes, self.data.class_counts("train"), strict=True))
        worse = None if self.worse is None else self.worse.denoiser
        return Drawing(self.sampler, self.data.shape, seed, self.guidance, worse, counts, precision=precision)


def check_restorable(settings: Train, data: ImageData, network: nn.Module) -> None:
    """Reject parts of one's own that could be trained, but not loaded from a checkpoint."""
    for part in PARTS:
        if has_directives(getattr(settings, part)):
            raise UserError(
                f"{part}: a checkpoint can only rebuild a part whose yaml file names classes and values, and functions "
                "with _partial_ inside of it; remove the other settings that begin with _"
            )
    given = settings.data.get("channels", RGB), *height_width(settings.data.get("resolution", 1))
    if "resolution" not in settings.data or given != data.shape:
        channels, height, width = data.shape
        raise UserError(
            f"data: a checkpoint knows the size of its images from data.resolution and data.channels; give them to "
            f"{type(data).__name__} as arguments, and to its yaml file as resolution: "
            f"{shown(resolution_of(height, width))} and channels: {channels}"
        )
    if other := [name for name, value in network.state_dict().items() if not isinstance(value, Tensor)]:
        raise UserError(f"model: its state {other[0]} is not a tensor, which checkpoints must have; make it a buffer")


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


def with_inputs(settings: Train) -> Train:
    """Return the settings with a network for the channels of the images, the augmentation and the crops.

    `out_channels` changes in proportion to `in_channels`. Raises UserError: see `follow`.
    """
    channels, out = settings.data.get("channels", RGB), settings.model.get("out_channels")
    if "in_channels" in settings.model and channels in MODES:  # other numbers are rejected with the data
        fact = f"the images have {count(channels, 'channel')}"
        followed = follow(settings, "in_channels", channels, RGB, "data.channels", fact)
        if followed is not settings and out is not None:
            followed.model["out_channels"] = out // RGB * channels
        settings = followed
    labels = 0
    if settings.augmentation:
        augmentation: Augmentation = make(settings.augmentation, "augmentation")
        labels = augmentation(torch.zeros(1, 1, 8, 8), Streams([0]))[1].shape[1]
    settings = follow(settings, "augment", labels, 0, "augmentation", f"the augmentation has {labels} labels")
    if settings.crops:
        settings = follow(settings, "coordinates", True, False, "crops", "the network needs the position of a crop")
    return settings


def with_times(settings: Train, recipe: Recipe) -> Train:
    """The settings with the spread of the validation's times, which older runs on such a schedule do not record.

    Raises UserError if the user set it for another schedule.
    """
    times = "angles" if mostly_noise(recipe.schedule) else None
    if times is None and settings.validation.times is not None:
        raise UserError(f"validation.times={settings.validation.times}: it is for schedules such as edm; remove it")
    return settings.model_copy(update={"validation": settings.validation.model_copy(update={"times": times})})


def with_classes(settings: Train, recipe: Recipe) -> tuple[Train, Recipe]:
    """Return the settings and the recipe with a network for the classes of the data, which must be set up.

    Raises UserError: see `follow` and `check_classes`.
    """
    if recipe.worse is not None:
        check_classes(recipe.guidance, recipe.worse, recipe.data.classes)
    known = len(recipe.data.classes)
    followed = follow(settings, "classes", known, 0, "data.labels", f"the data has {known or 'no'} classes")
    if followed is settings:
        return settings, recipe
    pl.seed_everything(settings.seed, verbose=False)
    labelled = replace(Recipe.build(followed), data=recipe.data)
    if (has := getattr(labelled.network, "classes", None)) != known:
        raise UserError(
            f"model: the data has {known} classes, but {type(labelled.network).__name__}.classes is {has}; set "
            "self.classes = classes in its __init__"
        )
    return followed, labelled


def follow(settings: Train, key: str, wanted: int, default: int, source: str, fact: str) -> Train:
    """Return the settings with `model.KEY`, a setting that follows from another one, set to the wanted value.

    Args:
        default: The value that means that the user did not set it.
        source: The setting from which it follows.
        fact: Why the value is wanted, for the message.

    Raises UserError if the user set a different value, or the network has no such setting.
    """
    given = settings.model.get(key, default)
    if given == wanted:
        return settings
    if given != default:
        raise UserError(f"model.{key}={given}: {fact}; remove it, and it follows {source}")
    if key not in settings.model:
        raise UserError(
            f"{source}: {fact}, but the model has no setting `{key}`; choose another model, such as model=unet_small, "
            f"or do without {source}"
        )
    return settings.model_copy(update={"model": {**settings.model, key: wanted}})
