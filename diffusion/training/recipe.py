"""The parts of a run, built from its settings and checked against each other."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from diffusion.checkpoint.facts import Facts
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import check_node, make
from diffusion.config.schema import Train
from diffusion.config.validation import shown
from diffusion.console import count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.evaluation.drawing import Drawing, source_of
from diffusion.evaluation.guided import check_worse, make_guidance
from diffusion.pixels import MODES, height_width, resolution_of
from diffusion.process.augmentation import Augmentation
from diffusion.process.crops import Crops
from diffusion.process.guidance import Guidance
from diffusion.process.prediction import Prediction
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams
from diffusion.training.ema import EMA
from diffusion.training.schedule_free import average_for

RGB = 3  # the image channels that conf/model assumes
LATER = ("trainer", "logger", "callbacks", "features", "metrics")  # built after the images are read


@dataclass(frozen=True)
class Recipe:
    """The objects that a run's settings describe."""

    settings: Train
    data: ImageData
    network: nn.Module
    inputs: Mapping[str, int]  # arguments of the network that follow from other settings and the data: see `inputs_of`
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
        augmentation = make(settings.augmentation, "augmentation") if settings.augmentation else None
        inputs = inputs_of(settings, augmentation)
        network = build_network(settings, inputs)
        guidance, worse = make_guidance(settings.guidance, data.shape, [], None)
        optimizer = make(settings.optimizer, "optimizer")
        recipe = cls(
            settings=settings,
            data=data,
            network=network,
            inputs=inputs,
            schedule=make(settings.schedule, "schedule", Schedule),
            prediction=make(settings.prediction, "prediction", Prediction),
            objective=make(settings.objective, "objective", nn.Module),
            optimizer=optimizer,
            augmentation=augmentation,
            crops=make(settings.crops, "crops") if settings.crops else None,
            lr_scheduler=make(settings.lr_scheduler, "lr_scheduler"),
            sampler=make(settings.sampler, "sampler", Sampler),
            guidance=guidance,
            worse=worse,
            ema=average_for(optimizer, make(settings.ema, "ema", Callback) if settings.ema else None),
        )
        recipe.sampler.grid(recipe.schedule, recipe.sampler.steps)  # raises if a schedule's table has fewer steps
        check_size(data, network, recipe.crops)
        check_restorable(settings, data, network)
        return recipe

    def with_classes(self) -> "Recipe":
        """The recipe with a network for the classes of the data, which must be set up.

        Raises UserError: see `inputs_of` and `check_worse`.
        """
        if self.worse is not None and self.guidance is not None:
            check_worse(self.guidance, self.worse, self.data.shape, self.data.classes)
        known = len(self.data.classes)
        inputs = inputs_of(self.settings, self.augmentation, known)
        if inputs == self.inputs:
            return self
        network = build_network(self.settings, inputs)
        if (has := getattr(network, "classes", None)) != known:
            raise UserError(
                f"model: the data has {known} classes, but {type(network).__name__}.classes is {has}; set "
                "self.classes = classes in its __init__"
            )
        return replace(self, network=network, inputs=inputs)

    @property
    def share(self) -> float:
        """The fraction of an image's pixels that a training step sees."""
        return self.crops.share if self.crops else 1.0

    def drawing(self) -> Drawing:
        """Return how to draw samples; with labels, each class is as frequent as in the training images."""
        counts = dict(zip(self.data.classes, self.data.class_counts("train"), strict=True))
        worse, settings = None if self.worse is None else self.worse.denoiser, self.settings
        waits = worse is None and (settings.guidance or {}).get("step") is not None
        return Drawing(
            self.sampler, self.data.shape, settings.seed, self.guidance, worse, counts,
            precision=settings.samples.precision, waits=waits,
        )  # fmt: skip

    def facts(self, drawing: Drawing, total: int, before: Facts) -> Facts:
        """What follows from the settings and the data: see `checkpoint.facts`.

        A fractional `guidance.step` is the step of the resumed run, otherwise this fraction of the run's steps.

        Args:
            total: the steps of the run.
            before: the facts of the resumed run; empty for a new one.
        """
        if not drawing.waits:
            return self.inputs
        step = (self.settings.guidance or {})["step"]
        if isinstance(step, float):
            step = before.get("guidance_step") or max(1, round(step * total))
        return {**self.inputs, "guidance_step": step}

    def drawn_by(self, drawing: Drawing, facts: Facts) -> dict[str, Any]:
        """The sampler, guidance and precision of samples of this run."""
        settings, guidance = self.settings, self.settings.guidance
        if guidance and (step := facts.get("guidance_step")) is not None:
            guidance = {**guidance, "step": step}
        return source_of(settings.sampler, guidance if drawing.guidance else None, settings.samples.precision)

    def source(self, drawing: Drawing, facts: Facts) -> dict[str, Any]:
        """The provenance that is stored with the scores of this run's samples."""
        weights = "ema" if self.ema else "raw"
        return {**self.drawn_by(drawing, facts), "seed": self.settings.seed, "weights": weights}


def build_network(settings: Train, inputs: Mapping[str, int]) -> nn.Module:
    """Build the network, with initial weights that depend on the seed alone."""
    pl.seed_everything(settings.seed, verbose=False)
    network: nn.Module = make({**settings.model, **inputs}, "model", nn.Module)
    return network


def inputs_of(settings: Train, augmentation: Augmentation | None, classes: int | None = None) -> dict[str, int]:
    """The network's arguments that follow from the channels of the images, their classes, augmentation and crops.

    Arguments that the settings already have are left out, so a network needs only those that it is used with.
    `out_channels` changes in proportion to `in_channels`.

    Args:
        classes: number of classes of the data; None if it is not known yet.

    Raises UserError if the user set another value, or the network has no such setting.
    """
    inputs: dict[str, int] = {}

    def follow(key: str, wanted: int, default: int, source: str, fact: str) -> None:
        given = settings.model.get(key, default)
        if given == wanted:
            return
        if given != default:
            raise UserError(f"model.{key}={given}: {fact}; remove it, and it follows {source}")
        if key not in settings.model:
            raise UserError(
                f"{source}: {fact}, but the model has no setting `{key}`; choose another model, such as "
                f"model=unet_small, or do without {source}"
            )
        inputs[key] = wanted

    channels = settings.data.get("channels", RGB)
    if "in_channels" in settings.model and channels in MODES:  # other numbers are rejected with the data
        follow("in_channels", channels, RGB, "data.channels", f"the images have {count(channels, 'channel')}")
        if "in_channels" in inputs and (out := settings.model.get("out_channels")) is not None:
            inputs["out_channels"] = out // RGB * channels
    labels = augmentation(torch.zeros(1, 1, 8, 8), Streams([0]))[1].shape[1] if augmentation else 0
    follow("augment", labels, 0, "augmentation", f"the augmentation has {labels} labels")
    if settings.crops:
        follow("coordinates", True, False, "crops", "the network needs the position of a crop")
    if classes is not None:
        follow("classes", classes, 0, "data.labels", f"the data has {classes or 'no'} classes")
    return inputs


def check_restorable(settings: Train, data: ImageData, network: nn.Module) -> None:
    """Reject parts of one's own that could be trained, but not loaded from a checkpoint."""
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
