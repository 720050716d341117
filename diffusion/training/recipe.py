"""The parts of a run, built from its settings and checked against each other."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from diffusion.config.build import Facts, check_node, make
from diffusion.config.schema import Train
from diffusion.data import ImageData
from diffusion.errors import UserError, shown
from diffusion.evaluation.drawing import Drawing
from diffusion.evaluation.guided import check_worse, make_guidance
from diffusion.files import replace
from diffusion.metric.features import FeatureExtractor
from diffusion.pixels import height_width, resolution_of
from diffusion.process.augmentation import Augmentation, Crops
from diffusion.process.prediction import Prediction
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams
from diffusion.training.ema import EMA, average_for
from diffusion.training.resume import Resumed

RGB = 3  # the image channels that conf/model assumes


class Recipe:
    """The objects that a run's settings describe, and the images, which are read last, because that may take long.

    Attributes are named as the settings, besides
        inputs: arguments of the network that follow from other settings and the data, see `inputs_of`;
        worse: the weaker model that the guidance uses;
        extractor: the features of the scores.

    Args:
        folder: where data_report.json lists the images left out.

    Raises UserError if an object cannot be built or does not fit the others.
    """

    def __init__(self, settings: Train, folder: Path):
        for group in ("trainer", "logger", "callbacks", "features", "metrics"):  # built after the images are read
            check_node(settings.model_dump().get(group), group)
        self.settings = settings
        self.data: ImageData = make(settings.data, "data", ImageData)
        self.augmentation: Augmentation | None = (
            make(settings.augmentation, "augmentation") if settings.augmentation else None
        )
        self.crops: Crops | None = make(settings.crops, "crops") if settings.crops else None
        self.inputs = inputs_of(settings, self.augmentation)
        self.network = self.build_network()
        check_size(settings, self.data, self.network, self.crops)
        self.guidance, self.worse = make_guidance(settings.guidance, self.data.shape, [], None)
        self.schedule: Schedule = make(settings.schedule, "schedule", Schedule)
        self.prediction: Prediction = make(settings.prediction, "prediction", Prediction)
        self.objective: Any = make(settings.objective, "objective", nn.Module)
        self.sampler: Sampler = make(settings.sampler, "sampler", Sampler)
        self.sampler.grid(self.schedule, self.sampler.steps)  # raises if a schedule's table has fewer steps
        self.optimizer: Any = make(settings.optimizer, "optimizer")  # parameters -> Optimizer
        self.lr_scheduler: Any = make(settings.lr_scheduler, "lr_scheduler")  # (optimizer, total_steps) -> LambdaLR
        chosen = make(settings.ema, "ema", Callback) if settings.ema else None
        self.ema: EMA | None = average_for(self.optimizer, chosen)
        self.extractor: FeatureExtractor | None = (
            make(settings.features, "features", FeatureExtractor) if settings.score.n != 0 else None
        )
        read(self.data, folder)
        if self.guidance is not None and self.worse is not None:
            check_worse(self.guidance, self.worse, self.data.shape, self.data.classes)
        known, before = len(self.data.classes), self.inputs
        self.inputs = inputs_of(settings, self.augmentation, known)
        if self.inputs != before:
            self.network = self.build_network()
            if (has := getattr(self.network, "classes", None)) != known:
                raise UserError(
                    f"model: the data has {known} classes, but {type(self.network).__name__}.classes is {has}; set "
                    "self.classes = classes in its __init__"
                )

    def build_network(self) -> nn.Module:
        """Build the network, with initial weights that depend on the seed alone."""
        pl.seed_everything(self.settings.seed, verbose=False)
        network: nn.Module = make({**self.settings.model, **self.inputs}, "model", nn.Module)
        return network

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

    def facts(self, drawing: Drawing, total: int, resumed: Resumed | None) -> Facts:
        """What follows from the settings and the data: see `config.build`.

        A fractional `guidance.step` is the step of the resumed run, otherwise this fraction of the `total` steps.
        """
        if not drawing.waits:
            return self.inputs
        step = (self.settings.guidance or {})["step"]
        if isinstance(step, float):
            before = {} if resumed is None else resumed.contents["facts"]
            step = before.get("guidance_step") or max(1, round(step * total))
        return {**self.inputs, "guidance_step": step}


def read(data: ImageData, folder: Path) -> None:
    """Read the images. data_report.json lists those left out, even if such a file ends the run."""
    try:
        data.setup()
    finally:
        if data.report and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            replace(folder / "data_report.json", json.dumps(data.report, indent=1))


def inputs_of(settings: Train, augmentation: Augmentation | None, classes: int | None = None) -> dict[str, int]:
    """The network's arguments that follow from the channels of the images, their classes, augmentation and crops.

    Arguments that the settings already have are left out, so a network needs only those that it is used with.
    `out_channels` changes in proportion to `in_channels`. The number of classes is None before the images are read.
    Raises UserError if the user set another value, or the network has no such setting.
    """
    model, inputs = settings.model, dict[str, int]()
    labels = augmentation(torch.zeros(1, 1, 8, 8), Streams([0]))[1].shape[1] if augmentation else 0
    wanted = {  # argument -> its value, its default in conf/model, and the setting that it follows
        "in_channels": (settings.data.get("channels", RGB), RGB, "data.channels"),
        "augment": (labels, 0, "augmentation"),
        "coordinates": (bool(settings.crops), False, "crops"),
    }
    if classes is not None:
        wanted["classes"] = classes, 0, "data.labels"
    for key, (value, default, source) in wanted.items():
        given = model.get(key, default)
        if given not in (value, default):
            raise UserError(f"model.{key}={given}: it follows {source}, which gives {value}; remove model.{key}")
        if given != value and key in model:
            inputs[key] = value
        elif given != value and key != "in_channels":
            raise UserError(
                f"{source}: the model has no setting `{key}`; choose another model, such as model=unet_small, or do "
                f"without {source}"
            )
    if "in_channels" in inputs and model.get("out_channels") is not None:
        inputs["out_channels"] = model["out_channels"] // RGB * inputs["in_channels"]
    return inputs


def check_size(settings: Train, data: ImageData, network: nn.Module, crops: Crops | None) -> None:
    """Reject a size that a checkpoint would not know, and sides that are not multiples of `network.downsampling`."""
    channels, height, width = data.shape
    size, factor = resolution_of(height, width), int(getattr(network, "downsampling", 1))
    given = settings.data.get("channels", RGB), *height_width(settings.data.get("resolution", 1))
    if "resolution" not in settings.data or given != data.shape:
        raise UserError(
            f"data: a checkpoint knows the size of its images from data.resolution and data.channels; give them to "
            f"{type(data).__name__} as arguments, and to its yaml file as resolution: {shown(size)} and channels: "
            f"{channels}"
        )
    if height % factor or width % factor:
        near = [max(factor, round(side / factor) * factor) for side in (height, width)]
        raise UserError(
            f"data.resolution={shown(size)}: the network needs multiples of {factor}, such as data.resolution="
            f"{shown(resolution_of(near[0], near[1]))}"
        )
    if crops is not None:
        crops.check(height, width, factor)
