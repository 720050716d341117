"""The time of a run: what it spends by part, and how many samples it can afford.

Costs are compared in evaluations of the network on one image. A training step counts as three per image, because the
backward pass costs as much as two.
"""

import resource
import sys
import time

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from diffusion.config.schema import SCORED
from diffusion.console import console, count
from diffusion.evaluation.drawing import Drawing, evaluations
from diffusion.training.clock import Clock
from diffusion.training.recipe import Recipe

SHOWN = 16  # samples in a picture if samples.n is not set
STEP = 3  # evaluations per image in a training step


def affordable(recipe: Recipe, drawing: Drawing, clock: Clock, devices: int) -> tuple[int, int]:
    """The numbers of samples to score and to show: where they are not set, they cost no more than the training.

    So either `SCORED` samples are scored or none (always `SCORED` if a sweep optimizes a score), and pictures show at
    most `SHOWN` samples.
    """
    settings, nfe = recipe.settings, evaluations(drawing.sampler, recipe.schedule, drawing.guidance)
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
    return scored, shown


def is_error(name: str) -> bool:
    """Whether this is the name of an error, such as val/mse, for which nothing is sampled."""
    split, _, metric = name.partition("/")
    return split in ("val", "fit", "gap", "train") and metric.startswith(("mse", "loss"))


class Spent(Callback):
    """Wall time by part of the run, without gaps: the time between two marks belongs to the part of the later one.

    This is the time of the process. A GPU works asynchronously, so its time counts for the part that waits for it.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def mark(self, part: str) -> None:
        """Add the time since the last mark to `part`."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    @property
    def rounded(self) -> dict[str, float]:
        """The seconds by part, rounded to hundredths."""
        return {part: round(seconds, 2) for part, seconds in self.seconds.items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The images are read, the network is built, a checkpoint is loaded."""
        self.mark("preparation")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training pauses."""
        self.mark("training")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training continues."""
        self.mark("validation")


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far in bytes, of the GPU's tensors or, without a CUDA GPU, of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
