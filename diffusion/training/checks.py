"""Checks before the first step, including those made while reading the images.

Each raises UserError with one line that says how to fix the problem.
"""

import copy
import json
from dataclasses import replace as replace_part
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from diffusion.config.build import make
from diffusion.config.schema import INSTEAD, SCORED, Train, Trainer
from diffusion.console import console, count
from diffusion.data import ImageData, to_unit
from diffusion.errors import UserError, first_line
from diffusion.evaluation.drawing import Drawing
from diffusion.evaluation.pipeline import Scorer, make_metrics
from diffusion.files import replace
from diffusion.metric.features import FeatureExtractor
from diffusion.model import EDM2UNet
from diffusion.process.prediction import EDM
from diffusion.randomness import Streams
from diffusion.training.module import Diffusion

ERRORS = ("mse", "loss")  # prefixes of the names of errors, after the split


def check_trainer(settings: Trainer) -> None:
    """Reject endless runs, missing GPUs, and settings that a run decides itself."""
    for key in (f"trainer.{name}" for name in settings.model_extra or {}):
        if key in INSTEAD:
            raise UserError(f"{key}: it is set by the run itself; {INSTEAD[key]}")
    if settings.max_epochs in (None, -1) and settings.max_steps == -1:
        raise UserError(
            "trainer.max_epochs and trainer.max_steps are both unlimited: set one of them, such as "
            "trainer.max_epochs=250"
        )
    extra = settings.model_extra or {}
    asked, devices = str(extra.get("accelerator", "auto")), extra.get("devices", 1)
    present = torch.cuda.device_count()
    if asked in ("gpu", "cuda") and present == 0 and not (asked == "gpu" and torch.backends.mps.is_available()):
        raise UserError(f"trainer.accelerator={asked}: this machine has no usable GPU; use trainer.accelerator=auto")
    if isinstance(devices, int) and devices > present > 0 and asked in ("gpu", "cuda", "auto"):
        raise UserError(f"trainer.devices={devices}: this machine has {count(present, 'GPU')}; set at most {present}")


def is_error(name: str) -> bool:
    """Whether this is the name of an error, such as val/mse, for which nothing is sampled."""
    split, _, metric = name.partition("/")
    return split in ("val", "fit", "gap", "train") and metric.startswith(ERRORS)


def check_sweep_score(settings: Train, scorer: Scorer | None) -> None:
    """Reject a `sweep.score` that the run will not log."""
    name = settings.sweep.score
    split, _, metric = name.partition("/")
    if is_error(name):
        return
    if scorer is None or split not in settings.score.references:
        logged = "/… and ".join(settings.score.references)
        raise UserError(
            f"sweep.score={name}: this run does not log it; it logs val/mse"
            + (", and no scores (score.n=0)" if scorer is None else f", and scores as {logged}/…")
        )
    features = scorer.extractor
    if metric not in features.canonical.values() and not metric.endswith(f"_{features.name}"):
        raise UserError(
            f"sweep.score={name}: this run's scores use the features {features.name}, such as "
            f"{split}/{features.named('fd')}; choose one of them, or other features (features=…)"
        )


def make_scorer(settings: Train, data: ImageData, folder: Path) -> Scorer | None:
    """Read the images and check that they suffice for the requested scores; returns the scorer, if any.

    data_report.json lists the path, reason and action of each file left out, even if such a file ends the run.
    """
    score = settings.score
    extractor: FeatureExtractor | None = make(settings.features, "features", FeatureExtractor) if score.n != 0 else None
    try:
        data.setup()
    finally:
        if data.report and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            replace(folder / "data_report.json", json.dumps(data.report, indent=1))
    if extractor is None:
        return None
    scorer = Scorer(data, score.split, extractor, make_metrics(settings.metrics), folder, folder)
    try:
        scorer.check(SCORED if score.n is None else score.n, score.baselines, score.audit)
    except UserError as error:
        if str(error).startswith("features:"):
            raise
        raise UserError(f"score.{error}".replace("such as n=", "such as score.n=")) from error
    return scorer


def check_recipe(module: Diffusion, data: ImageData, drawing: Drawing) -> None:
    """Reject parts that do not fit together: pass an image through the objective, twice, and draw one sample."""
    network = module.denoiser.network
    if isinstance(network, EDM2UNet) and not isinstance(module.denoiser.prediction, EDM) and network.bandwidth >= 0.1:
        console.print(
            f"warning: model.bandwidth={network.bandwidth:g} is for the labels of prediction=edm. Those of this "
            "prediction are 1000·t - 1, so neighbouring times have unrelated embeddings: set model.bandwidth=0.002",
            style="yellow",
        )
    first = data.splits["train"].take(torch.tensor([0, 0]))
    image, given = to_unit(first.images), {} if first.labels is None else {"classes": first.labels}
    if "classes" in given and module.settings.label_dropout:
        given["classes"] = torch.tensor([int(given["classes"][0]), len(data.classes)])  # the second one: no class
    try:
        with torch.no_grad():
            if module.augmentation is not None:
                image, given["augment"] = module.augmentation(image, Streams([0, 0]))
            if module.crops is not None:
                image, given["window"] = module.crops(image, Streams([0, 0]))
            module.objective(module.denoiser, image, Streams([0, 0]), **given)
    except (RuntimeError, IndexError) as error:
        raise UserError(f"model: it does not fit the images or the objective ({first_line(error)})") from error
    try:
        optimizer = module.new_optimizer()
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer: {first_line(error)}; --help optimizer lists settings that work") from error
    module.lr_scheduler(optimizer, module.clock.total)
    short = copy.copy(drawing.sampler)
    short.steps = min(2, short.steps)
    module.denoiser.eval()
    drawing.check(module.denoiser, module.settings.label_dropout)
    replace_part(drawing, sampler=short)(module.denoiser, 1, torch.device("cpu"))
    module.denoiser.train()
