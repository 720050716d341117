"""Checks before the first step. Each raises UserError with one line that says how to fix the problem."""

import copy
from dataclasses import replace
from pathlib import Path

import torch

from diffusion.config.schema import INSTEAD, SCORED, Train
from diffusion.data import ImageData, to_unit
from diffusion.errors import UserError, first_line
from diffusion.evaluation.drawing import Drawing
from diffusion.evaluation.pipeline import Scorer, make_metrics
from diffusion.randomness import Streams
from diffusion.training.module import Diffusion
from diffusion.training.prepared import is_error
from diffusion.training.recipe import Recipe


def check_trainer(settings: Train) -> None:
    """Reject endless runs, missing GPUs, and settings that a run decides itself, before any image is read."""
    trainer = settings.trainer
    for key in (f"trainer.{name}" for name in trainer.model_extra or {}):
        if key in INSTEAD:
            raise UserError(f"{key}: it is set by the run itself; {INSTEAD[key]}")
    if trainer.max_epochs in (None, -1) and trainer.max_steps == -1:
        raise UserError(
            "trainer.max_epochs and trainer.max_steps are both unlimited: set one of them, such as "
            "trainer.max_epochs=250"
        )
    whole, accumulate = settings.data.get("global_batch_size"), trainer.accumulate_grad_batches
    if whole is not None and accumulate > 1:
        raise UserError(
            f"trainer.accumulate_grad_batches={accumulate}: data.global_batch_size={whole} already sets the batches "
            "per step; set trainer.accumulate_grad_batches=1, or data.global_batch_size=null"
        )


def make_scorer(recipe: Recipe, folder: Path) -> Scorer | None:
    """Create the scorer, if scores are requested, and check that the images and `sweep.score` suit it."""
    settings, score, scorer = recipe.settings, recipe.settings.score, None
    if recipe.extractor is not None:
        metrics = make_metrics(settings.metrics)
        scorer = Scorer(recipe.data, score.split, recipe.extractor, metrics, folder, folder)
        try:
            scorer.check(SCORED if score.n is None else score.n, score.baselines, score.audit)
        except UserError as error:
            if str(error).startswith("features:"):
                raise
            raise UserError(f"score.{error}".replace("such as n=", "such as score.n=")) from error
    if not is_error(settings.sweep.score):
        check_sweep_score(settings, scorer)
    return scorer


def check_sweep_score(settings: Train, scorer: Scorer | None) -> None:
    """Reject a `sweep.score` that the run will not log."""
    name, references = settings.sweep.score, settings.score.references
    split, _, metric = name.partition("/")
    if scorer is None or split not in references:
        scores = "no scores (score.n=0)" if scorer is None else f"scores as {'/… and '.join(references)}/…"
        raise UserError(f"sweep.score={name}: this run does not log it; it logs val/mse, and {scores}")
    features = scorer.extractor
    if metric not in features.canonical.values() and not metric.endswith(f"_{features.name}"):
        raise UserError(
            f"sweep.score={name}: this run's scores use the features {features.name}, such as "
            f"{split}/{features.named('fd')}; choose one of them, or other features (features=…)"
        )


def check_recipe(module: Diffusion, data: ImageData, drawing: Drawing) -> None:
    """Reject parts that do not fit together: pass an image through the objective, twice, and draw one sample."""
    first = data.splits["train"].take(torch.tensor([0, 0]))
    given = {} if first.labels is None else {"classes": first.labels}
    if given and module.settings.label_dropout:
        given["classes"] = torch.tensor([int(given["classes"][0]), len(data.classes)])  # the second one: no class
    try:
        with torch.no_grad():
            module.values(to_unit(first.images), given, lambda use: Streams([0, 0]))
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
    replace(drawing, sampler=short)(module.denoiser, 1, torch.device("cpu"))
    module.denoiser.train()
