"""Forecast of a run's time before its first step: the number of network evaluations times the time of one.

An evaluation is one forward pass of one image. A training step counts as three per image, because the backward pass
costs as much as two.
"""

import time
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from diffusion.config.schema import SCORED
from diffusion.console import console, count, duration
from diffusion.evaluation.cost import seconds_per_evaluation
from diffusion.evaluation.devices import device_name
from diffusion.evaluation.drawing import Drawing, most_of
from diffusion.evaluation.pipeline import Scorer, opposite
from diffusion.metric.extract import default_batch_size
from diffusion.process.denoiser import Denoiser
from diffusion.report.page.run import utilization_text
from diffusion.runs.record import RunRecord
from diffusion.training.checks import is_error
from diffusion.training.clock import Clock
from diffusion.training.module import VALIDATED, Diffusion
from diffusion.training.recipe import Recipe
from diffusion.training.signals import TimeLimit
from diffusion.training.spent import Spent
from diffusion.training.utilization import utilization

SHOWN = 16  # samples in a picture if samples.n is not set
STEP = 3  # evaluations per image in a training step
LONG = 60.0  # seconds of training from which on its utilization of the device is measured
TIMED = 8  # maximum batch of the timed evaluation on a CPU, where time is proportional to the batch
MEASURED = slice(5, 25)  # the batches of the run that are timed to correct the forecast
APART = ("validation", "pictures", "scores", "checkpoints")  # parts of a run, in `Spent`, that may lie between batches


class Part(NamedTuple):
    """A part of a run's work, on the device that does most of it."""

    name: str
    amount: str
    training: int = 0  # evaluations, in the precision of training
    sampling: int = 0  # evaluations, in the precision of sampling
    features: int = 0  # images through the feature extractor


class Costs(NamedTuple):
    """Seconds per image."""

    training: float
    sampling: float
    features: float

    def of(self, part: Part) -> float:
        """Seconds for a part of the work."""
        return part.training * self.training + part.sampling * self.sampling + part.features * self.features


class Amounts(NamedTuple):
    """How many samples a run scores, and how many its pictures show."""

    scored: int
    shown: int


def affordable(recipe: Recipe, drawing: Drawing, clock: Clock, devices: int) -> Amounts:
    """The amounts in the settings; where they are not set, sampling takes no more evaluations than training.

    So either `SCORED` samples are scored or none (always `SCORED` if a sweep optimizes a score), and pictures show at
    most `SHOWN` samples.
    """
    settings, nfe = recipe.settings, drawing.evaluations(recipe.schedule)
    training = round(STEP * clock.total * clock.accumulate * recipe.data.batch_size * devices * recipe.share)
    scored, shown = settings.score.n, settings.samples.n
    if scored is None:
        scored = SCORED if SCORED * nfe <= training or not is_error(settings.sweep.score) else 0
        if not scored:
            console.print(
                f"no scores: {SCORED} samples need {SCORED * nfe:,} network evaluations, more than the training "
                f"({training:,}); score=quick or score=full enables them"
            )
    if shown is None:
        shown = min(SHOWN, training // (nfe * (1 + clock.times(settings.samples.every_n_epochs, 0))))
        if shown < SHOWN:
            console.print(
                f"pictures of {count(shown, 'sample')}: {SHOWN} would cost more than the training; samples.n={SHOWN} "
                "draws them anyway"
            )
    return Amounts(scored, shown)


class Plan:
    """The remaining work of a run from any of its steps.

    Args:
        recipe: The parts of the run, with the data set up.
        amounts: How many samples are scored and shown.
        drawing: How the last samples are drawn.
        clock: The run's clock.
        scorer: The scorer; None if nothing is scored.
        devices: Number of devices.
    """

    def __init__(
        self,
        recipe: Recipe,
        amounts: Amounts,
        drawing: Drawing,
        clock: Clock,
        scorer: Scorer | None,
        devices: int,
    ):
        self.recipe, self.settings, self.amounts = recipe, recipe.settings, amounts
        self.clock, self.scorer, self.devices = clock, scorer, devices
        self.data, self.share, self.in_precision = recipe.data, recipe.share, drawing.in_precision
        ways = drawing, drawing.unguided, drawing.in_training
        self.nfe, self.unguided, self.in_training = (way.evaluations(recipe.schedule) for way in ways)

    def parts(self, step: int) -> list[Part]:
        """The work left after `step` steps; parts without work are omitted."""
        parts = [self.training(step), self.validation(step), self.pictures(step), *self.scores(step)]
        return [part for part in parts if part.training or part.sampling]

    def training(self, step: int) -> Part:
        """The remaining steps."""
        left = self.clock.total - step
        batch = self.clock.accumulate * self.data.batch_size
        return Part("training", count(left, "step"), training=round(STEP * left * batch * self.share))

    def validation(self, step: int) -> Part:
        """Held-out and training images, with averaged and raw weights."""
        every, total = self.clock.validate_every, self.clock.total
        times = total // every - step // every + bool(total % every and step < total)
        batches = -(-len(self.data.splits["val"]) // (self.data.eval_batch_size * self.devices))
        limit = self.settings.trainer.limit_val_batches
        if limit is not None:
            batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        images = min(batches * self.data.eval_batch_size, -(-len(self.data.splits["val"]) // self.devices))
        each = images * len(VALIDATED) * self.settings.validation.draws * (2 if self.recipe.ema else 1)
        return Part("validation", f"{count(times, 'time')}, {count(each, 'evaluation')} each", training=times * each)

    def pictures(self, step: int) -> Part:
        """Samples shown in pictures during training, and at its end unless they are scored too."""
        n, score = self.amounts.shown, self.amounts.scored
        times, more = self.clock.times(self.settings.samples.every_n_epochs, step), max(0, n - score)
        sampling = times * n * self.in_training + more * self.nfe
        return Part("pictures", f"{times + (more > 0)} of {count(n, 'sample')}", sampling=sampling)

    def after(self) -> list[Part]:
        """The work after the last step."""
        more = max(0, self.amounts.shown - self.amounts.scored)
        last = [part for part in self.scores(self.clock.total) if part.name == "last scores"]
        return [Part("pictures", "", sampling=more * self.nfe), *last]

    def scores(self, step: int) -> list[Part]:
        """Samples that are scored, and their baselines."""
        score, n = self.settings.score, self.amounts.scored
        if self.scorer is None or not n:
            return []
        times = self.clock.times(score.every_n_epochs, step)
        untrained = n * ("untrained" in score.baselines)
        against_real = bool({"real", "floor"} & {*score.baselines})
        real = [min(n, len(self.data.splits[opposite(split)])) * against_real for split in score.references]
        features = len(real) * (n + untrained + n * ("noise" in score.baselines)) + sum(real)
        most, blank = (most_of(each, score.batch_size, self.devices) for each in (n, untrained))
        last = most * self.nfe + blank * self.unguided
        under_way, images = f"{times} of {count(n, 'sample')}", times * most
        return [
            Part("scores", under_way, sampling=images * self.in_training, features=images),
            Part("last scores", count(n + untrained, "sample"), 0, last, features),
        ]


class Forecast(Callback):
    """Prints how long each part of the run will take before the first step, and later a measured time for training."""

    def __init__(self, clock: Clock, plan: Plan, record: RunRecord | None, spent: Spent):
        self.clock, self.plan, self.record, self.spent = clock, plan, record, spent
        self.seen = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time an evaluation and print the forecast."""
        assert isinstance(pl_module, Diffusion)
        if not trainer.is_global_zero:
            return
        parts, batch = self.plan.parts(trainer.global_step), self.batch(pl_module)
        if not parts:
            return
        costs = self.costs(trainer, pl_module.denoiser, pl_module.device, batch)
        every = sum(costs.of(part) for part in parts)
        console.print(
            f"forecast: about {duration(every)} on {device_name(pl_module.device)} (a batch of {batch} was timed)"
        )
        names, amounts = max(len(part.name) for part in parts), max(len(part.amount) for part in parts)
        for part in parts:
            console.print(f"  {part.name:<{names}}  {part.amount:<{amounts}}  {duration(costs.of(part))}")
        limit = self.plan.settings.trainer.max_time
        training = every - sum(costs.of(part) for part in self.plan.after())  # the timer stops with the training
        if limit is not None and TimeLimit(limit).seconds < training:
            console.print(f"trainer.max_time={limit} saves and stops the run before that; ckpt=auto then resumes it")
        if pl_module.device.type == "cpu" and every > 3600:
            console.print("that is long for a CPU; experiment=demo trains a small model in a few minutes")

    def batch(self, module: Diffusion) -> int:
        """Batch size of the timed evaluation."""
        size = self.plan.data.batch_size
        return min(size, TIMED) if module.device.type == "cpu" else size

    def costs(self, trainer: pl.Trainer, denoiser: Denoiser, device: torch.device, batch: int) -> Costs:
        """Seconds per image: for training and for sampling, in their precisions, and for the features."""
        data, features = self.plan.data, 0.0
        shape = data.shape
        denoiser.eval()
        with torch.compiler.set_stance("force_eager"):  # compiling takes longer than all of this
            sampling = seconds_per_evaluation(self.plan.in_precision(denoiser), shape, batch, device) / batch
            with trainer.precision_plugin.forward_context():
                training = seconds_per_evaluation(denoiser, shape, batch, device) / batch
        denoiser.train()
        if self.plan.scorer is not None:
            extractor = self.plan.scorer.extractor
            blank = torch.zeros(min(batch, default_batch_size(extractor)), *shape, dtype=torch.uint8)
            for _ in range(2):
                began = time.perf_counter()
                extractor(blank).cpu()
                features = (time.perf_counter() - began) / len(blank)
        return Costs(training, sampling, features)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Time the `MEASURED` batches, and print the time of the remaining steps and the utilization of the device."""
        self.seen += 1
        if self.seen == MEASURED.start:
            self.began = self._now(pl_module)
        if self.seen != MEASURED.stop or not trainer.is_global_zero:
            return
        batch = (self._now(pl_module) - self.began) / (MEASURED.stop - MEASURED.start)
        left, each = self.clock.total - trainer.global_step, batch * self.clock.accumulate
        console.print(f"{count(left, 'step')} left: about {duration(each * left)} of training (measured)")
        if self.record is None or each * left < LONG:
            return
        data, recipe = self.plan.data, self.plan.recipe
        rate = STEP * data.batch_size * self.plan.share / batch
        if found := utilization(trainer, pl_module, {**recipe.settings.model, **recipe.inputs}, data.shape, rate):
            self.record.update(utilization=found)
            console.print(f"  {utilization_text(found)}")

    def _now(self, module: pl.LightningModule) -> float:
        """The time in seconds, without that of the `APART` parts so far."""
        if module.device.type != "cpu":
            getattr(torch, module.device.type).synchronize()
        return time.perf_counter() - sum(self.spent.seconds.get(part, 0.0) for part in APART)
