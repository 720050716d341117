"""`Parts`: the parts of a run, built from its settings and checked against each other."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from diffusion.base import files
from diffusion.base.console import console
from diffusion.base.pixels import resolution_of
from diffusion.config.build import check_node, make
from diffusion.config.choices import groups
from diffusion.config.schema import SCORED, Train
from diffusion.data import ImageData
from diffusion.data.conditions import Condition
from diffusion.errors import UserError, shown
from diffusion.kinds.encoder import Encoder
from diffusion.kinds.latents import Latents
from diffusion.metric.features import FeatureExtractor
from diffusion.process.augmentation import Augmentation, Crops
from diffusion.process.objective import Simple
from diffusion.process.sampler import Sampler
from diffusion.randomness import Streams
from diffusion.recipe.assemble import assembled
from diffusion.recipe.facts import ConditionFacts, Facts, read_facts
from diffusion.runs.record import RunRecord
from diffusion.sampling.drawing import Drawing, check_weak, evaluations, make_guidance
from diffusion.sampling.given import Given
from diffusion.scoring.floor import CONDITIONAL
from diffusion.scoring.pipeline import Scorer, make_metrics
from diffusion.training.clock import clock_of
from diffusion.training.ema import EMA, average_for
from diffusion.training.resume import Resumed, initial

RGB = 3  # the image channels that conf/model assumes
SHOWN = 16  # samples in a picture if samples.n is not set
STEP = 3  # evaluations of the network in a training step, per image: the backward pass costs as much as two


class Parts:
    """A run before its first step: the objects that its settings describe, and what follows from them and the data.

    The settings are checked, then the images are read, which may take long, then everything is built. Attributes are
    named as the settings, besides
        denoiser: the network with its schedule and prediction, by the `facts` of the run;
        weak_model: the weak model that the guidance uses, if it is another run's;
        extractor: the features of the scores;
        clock, facts: see `training.clock` and `recipe.facts`;
        drawing: how samples are drawn, without guidance if it is that of an early step (`guidance_step` in the facts);
        scored, shown: numbers of samples, see `affordable`;
        scorer: None if no samples are scored.

    Args:
        folder: what the run writes. data_report.json there lists the images left out.
        record: the run's record on the first process; None on the others.
        resumed: the checkpoint that the run goes on from, if any.
        devices: number of devices, on all machines.
        device: where images are encoded into latents.

    Raises UserError if an object cannot be built or does not fit the others.
    """

    def __init__(
        self, settings: Train, folder: Path, record: RunRecord | None, resumed: Resumed | None = None, devices: int = 1,
        device: torch.device | str = "cpu",
    ):  # fmt: skip
        self.settings, self.folder, self.record, self.resumed, self.devices = settings, folder, record, resumed, devices
        for group, node in settings.model_dump().items():
            if group in groups() and group != "guidance":
                check_node(node, group)
        self.guidance, self.weak_model = make_guidance(settings.guidance, None)
        self.data: ImageData = make(settings.data, "data", ImageData)
        self.augmentation: Augmentation | None = optional(settings.augmentation, "augmentation")
        self.crops: Crops | None = optional(settings.crops, "crops")
        self.condition: Condition | None = optional(settings.condition, "condition")
        self.data.condition, widths = self.condition, {}
        if (encoder := optional(settings.encoder, "encoder", Encoder)) is not None:
            self.data.kind = Latents(encoder, self.data.shape)
        check_kind(settings, self.data, self.condition)
        if self.condition is not None:
            widths = self.condition.widths(self.data.shape)
            if self.condition.attached and "picture" in widths and (self.augmentation or self.crops):
                raise UserError("condition: its pictures stay as they are; set augmentation=none crops=none")
            if settings.validation.floor:
                raise UserError(CONDITIONAL)
        try:
            self.data.setup()
        finally:  # it lists the files that cannot be read, even if such a file ends the run
            if self.data.report and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                files.replace(folder / "data_report.json", json.dumps(self.data.report, indent=1))
        if self.guidance is not None and self.weak_model is not None:
            check_weak(self.guidance, self.weak_model, self.data.shape, self.data.classes)

        self.objective: Any = make(settings.objective, "objective", nn.Module)
        if self.data.missing and type(getattr(self.objective, "objective", self.objective)) is not Simple:
            raise UserError("objective: values of the data are missing (NaN), which only objective=simple leaves out")
        widths["ends"] = getattr(self.objective, "ends", 0)
        space = self.data.kind.space(self.data.shape)
        inputs = inputs_of(settings, self.augmentation, len(self.data.classes), widths, space[0])
        facts = Facts(inputs, **widths, kind=self.data.kind.name)
        pl.seed_everything(settings.seed, verbose=False)  # the initial weights depend on the seed alone
        self.denoiser = assembled(settings.model_dump(), facts)
        self.network: nn.Module = self.denoiser.network
        check_network(self.network, settings, self.data, self.crops)
        self.data.kind.attach(self.data, torch.device(device), self.figures_before)
        self.sampler: Sampler = make(settings.sampler, "sampler", Sampler)
        self.sampler.grid(self.denoiser.schedule, self.sampler.steps)  # raises if a schedule's table has fewer steps
        self.optimizer: Any = make(settings.optimizer, "optimizer")  # parameters -> Optimizer
        self.lr_scheduler: Any = make(settings.lr_scheduler, "lr_scheduler")  # (optimizer, total_steps) -> LambdaLR
        self.ema: EMA | None = average_for(self.optimizer, optional(settings.ema, "ema", Callback))
        scored = settings.score.n != 0
        self.extractor: FeatureExtractor | None = optional(scored and settings.features, "features", FeatureExtractor)
        self.clock = clock_of(settings, self.data, devices, resumed)

        self.facts = replace(
            facts,
            figures=self.data.kind.figures,
            condition=self.condition and ConditionFacts.of(self.condition, self.data.shape),
            guidance_step=self.guidance_step(),
        )

        counts = dict(zip(self.data.classes, self.data.class_counts("train"), strict=True))  # as frequent as in these
        guidance = None if self.facts.guidance_step else self.guidance
        weak, split = None if self.weak_model is None else self.weak_model.denoiser, settings.score.split
        given = None
        if self.condition is not None:
            given = Given(self.condition, self.data.shape, self.data.kind, split, self.data.splits[split])
        self.drawing = Drawing(
            self.sampler, self.data.shape, settings.seed, guidance, weak, counts, given=given,
            precision=settings.samples.precision, kind=self.data.kind,
        )  # fmt: skip
        self.scored, self.shown = self.affordable()
        self.scorer = self.make_scorer()

    def figures_before(self) -> Mapping[str, Any] | None:
        """The figures of the data of an older model, which its weights are made for; None without one."""
        if self.resumed is not None:
            contents = self.resumed.contents
        elif self.settings.init:
            contents = initial(self.settings.init)[1]
        else:
            return None
        facts = read_facts(contents, {}, "init")
        return facts.figures if facts.kind == self.data.kind.name else None

    def guidance_step(self) -> int | None:
        """The step whose weights guide the run's own samples, if they do."""
        step: Any = (self.settings.guidance or {}).get("step")
        if step is None or self.weak_model is not None:
            return None
        if isinstance(step, int):
            return step
        # a fraction of all steps, as they were when the run began
        before = None if self.resumed is None else read_facts(self.resumed.contents, {}, "ckpt").guidance_step
        return before or max(1, round(step * self.clock.total))

    def affordable(self) -> tuple[int, int]:
        """The numbers of samples to score and to show: where they are not set, they cost no more than the training.

        So either `SCORED` samples are scored or none (always `SCORED` if a sweep optimizes a score), and pictures show
        at most `SHOWN` samples. Costs are evaluations of the network on one image.
        """
        settings, nfe = self.settings, evaluations(self.sampler, self.denoiser.schedule, self.guidance)
        training = STEP * self.clock.total * self.clock.accumulate * self.data.batch_size * self.devices
        scored, pictured = settings.score.n, settings.samples.n
        if scored is None:
            scored = SCORED if SCORED * nfe <= training or not all(map(is_error, settings.sweep.scores)) else 0
            if not scored:
                console.print(
                    f"no scores: {SCORED} samples need {SCORED * nfe:,} network evaluations, more than the training "
                    f"({training:,}); score=quick or score=full enables them"
                )
        if pictured is None:
            every = settings.samples.every_n_epochs
            pictures = 1 + (self.clock.total // self.clock.steps(every) + (settings.init is not None) if every else 0)
            pictured = min(SHOWN, training // (nfe * pictures))
        return scored, pictured

    def make_scorer(self) -> Scorer | None:
        """Create the scorer, if samples are scored, and check that the images and `sweep.score` suit it."""
        settings, score, scorer = self.settings, self.settings.score, None
        if self.scored and self.extractor is not None:
            metrics = make_metrics(settings.metrics)
            scorer = Scorer(self.data, score.split, self.extractor, metrics, self.folder, self.folder)
            try:
                scorer.check(self.scored, score.baselines, score.audit)
            except UserError as error:
                raise UserError(f"score.{error}") from error
        features = self.extractor
        for name in settings.sweep.scores:
            split, _, metric = name.partition("/")
            named = features and (metric in features.canonical.values() or metric.endswith(f"_{features.name}"))
            if not is_error(name) and not (named and scorer and split in score.references):
                scores = f"scores such as {score.split}/{features.named('fd')}" if features else "no scores (score.n=0)"
                raise UserError(f"sweep.score={name}: this run does not log it; it logs val/mse, and {scores}")
        return scorer

    def source(self, drawing: Drawing) -> dict[str, Any]:
        """The provenance that is stored with the scores of samples drawn so."""
        guidance = self.settings.guidance
        if guidance and self.facts.guidance_step:
            guidance = {**guidance, "step": self.facts.guidance_step}
        return {**drawing.source(self.settings.sampler, guidance), "weights": "ema" if self.ema else "raw"}


def optional(node: Any, where: str, kind: type | None = None) -> Any:
    """The object of a node, or None without one."""
    return make(node, where, kind) if node else None


def is_error(name: str) -> bool:
    """Whether this score of a search is an error, such as val/mse, or the seconds, for which nothing is sampled."""
    return "mse" in name or name in ("train/loss", "seconds")


def inputs_of(
    settings: Train, augmentation: Augmentation | None, classes: int, widths: Mapping[str, int], channels: int
) -> dict[str, int]:
    """The network's arguments that follow from the channels in the process, classes, augmentation, crops and condition.

    Arguments that the settings already have are left out, so a network needs only those that it is used with.
    `out_channels` changes in proportion to the images' channels. Raises UserError if the user set another value, or the
    network has no such setting.
    """
    model, inputs = settings.model, dict[str, int]()
    labels = augmentation(torch.zeros(1, 1, 8, 8), Streams([0]))[1].shape[1] if augmentation else 0
    picture, vector, ends = (widths.get(name, 0) for name in ("picture", "vector", "ends"))
    wanted = {  # argument -> its value, its default in conf/model, and the setting that it follows
        "in_channels": (
            channels + picture,
            RGB,
            "condition" if picture else "encoder" if settings.encoder else "data.channels",
        ),
        "augment": (labels + vector + ends, 0, "objective" if ends else "condition" if vector else "augmentation"),
        "coordinates": (bool(settings.crops), False, "crops"),
        "classes": (classes, 0, "data.labels"),
    }
    for key, (value, default, source) in wanted.items():
        given = model.get(key, default)
        if given not in (value, default):
            raise UserError(f"model.{key}={given}: it follows {source}, which gives {value}; remove model.{key}")
        if given != value and key in model:
            inputs[key] = value
        elif given != value and (picture or key != "in_channels"):
            raise UserError(
                f"{source}: the model has no setting `{key}`; choose another, such as model=unet_small, or do without"
            )
    if ("in_channels" in inputs or channels != RGB) and model.get("out_channels") is not None:
        inputs["out_channels"] = model["out_channels"] // RGB * channels
    return inputs


def check_kind(settings: Train, data: ImageData, condition: Condition | None) -> None:
    """Reject what makes no sense for the kind of the data."""
    asked = {
        "augmentation": settings.augmentation,
        "crops": settings.crops,
        "condition": condition,
        condition.task if condition else "": condition,
        "sampler.threshold": settings.sampler.get("threshold"),
        "validation.floor": settings.validation.floor,
    }
    for task in filter(asked.get, asked):
        data.kind.require(task)


def check_network(network: nn.Module, settings: Train, data: ImageData, crops: Crops | None) -> None:
    """Reject a network without the classes of the data; a size that a checkpoint would not know; unsuitable sides.

    Sides are multiples of `network.downsampling`.
    """
    known = len(data.classes)
    if known and (has := getattr(network, "classes", None)) != known:
        raise UserError(
            f"model: the data has {known} classes, but {type(network).__name__}.classes is {has}; set "
            "self.classes = classes in its __init__"
        )
    (channels, *size), resolution = data.shape, settings.data.get("resolution", 1)
    factor = int(getattr(network, "downsampling", 1)) * data.kind.factor
    asked = resolution_of(*size)
    given = settings.data.get("channels", RGB) or channels, *data.kind.size(resolution)
    if "resolution" not in settings.data or given != data.shape:
        raise UserError(
            f"data: checkpoints need the size of the images: give {type(data).__name__} the arguments resolution and "
            f"channels, and its yaml file resolution: {shown(asked)} and channels: {channels}"
        )
    if data.kind.plane and factor > 1:
        raise UserError(f"model: a point has no sides to halve, as {type(network).__name__} does; choose model=mlp")
    if any(side % factor for side in size):
        near = resolution_of(*(max(factor, round(side / factor) * factor) for side in size))
        raise UserError(
            f"data.resolution={shown(asked)}: the network needs multiples of {factor}, such as "
            f"data.resolution={shown(near)}"
        )
    if crops is not None:
        crops.check(size[0], size[1], factor)
