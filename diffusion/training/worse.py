"""Autoguidance with the run's own weights: the averaged weights after `guidance.step` steps guide its last samples."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from diffusion.checkpoint import early, exported
from diffusion.checkpoint.facts import Facts
from diffusion.checkpoint.restore import contents_of, network_weights
from diffusion.console import console, count
from diffusion.evaluation.drawing import Drawing
from diffusion.training.clock import Clock
from diffusion.training.module import Diffusion
from diffusion.training.periodic import averaged_weights
from diffusion.training.recipe import Recipe
from diffusion.training.saving import unwritable


class KeepEarlyWeights(Callback):
    """Saves the averaged weights of one step, in checkpoints/early.

    Args:
        run_folder: The run's folder.
        recipe: The parts of the run.
        facts: What follows from its settings; the file stores both.
        resumed: The checkpoint that the run resumes from.
        first: Whether this is the first process.

    If the run does not reach that step, a warning is printed.
    """

    def __init__(
        self, step: int, run_folder: Path, recipe: Recipe, facts: Facts, clock: Clock, resumed: Path | None, first: bool
    ):
        if step >= clock.total and first:
            console.print(
                f"guidance.step={step}: the run has {count(clock.total, 'step')}, so its last samples will be drawn "
                "without guidance; a fraction, such as guidance.step=0.4, fits a run of any length",
                style="yellow",
            )
        self.step, self.file = step, early.file_of(run_folder / "checkpoints", step)
        self.recipe, self.facts, self.clock, self.resumed = recipe, facts, clock, resumed

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the weights from the resumed run's folder if this run starts after that step."""
        if not trainer.is_global_zero or trainer.global_step < self.step or self.file.is_file():
            return
        assert self.resumed is not None  # the run is past the step
        found = contents_of(early.find(self.resumed.parent, self.step))
        self.write(network_weights(found["state_dict"]))  # averaged, if there is an average

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the weights on the first process."""
        if trainer.global_step != self.step or not self.clock.completes_step(batch_idx):
            return
        assert isinstance(pl_module, Diffusion)
        with averaged_weights(trainer, pl_module):
            if trainer.is_global_zero:
                self.write(pl_module.denoiser.network.state_dict())

    def write(self, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of a network. Raises UserError if they cannot be written."""
        kind, data = "ema" if self.recipe.ema else "raw", self.recipe.data
        labels = dict(zip(data.classes, data.class_counts("train"), strict=True))
        epoch = self.clock.epoch_after(self.step)
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            settings = self.recipe.settings.model_dump()
            about = exported.metadata(settings, self.facts, self.step, epoch, kind, labels)
            exported.write(self.file, weights, about)
        except OSError as error:
            raise unwritable(self.file, self.file.parents[2], error) from error


def with_worse(drawing: Drawing, step: int | None, folder: Path, module: Diffusion) -> Drawing:
    """Return how the last samples are drawn after training: guided by the weaker model that the run has saved.

    If the run ended before that step, they are drawn without guidance, and a warning is printed.
    """
    if step is None:
        return drawing
    if module.trainer.global_step <= step:
        if module.trainer.is_global_zero:
            words = f"guidance.step={step}: the run ended before this step; its samples are drawn without guidance"
            console.print(words, style="yellow")
        return drawing.unguided
    weak = copy.deepcopy(module.denoiser)
    weak.network.load_state_dict(exported.read(early.file_of(folder / "checkpoints", step), "")["state_dict"])
    return replace(drawing, weak=weak.eval(), waits=False)
