"""Autoguidance with the run's own weights: the averaged weights after `guidance.step` steps guide its last samples."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from diffusion.checkpoint import exported
from diffusion.checkpoint.find import at_step, early_file
from diffusion.checkpoint.restore import network_weights, read
from diffusion.console import console
from diffusion.evaluation.drawing import Drawing
from diffusion.training.periodic import averaged_weights
from diffusion.training.prepared import Run


class KeepEarlyWeights(Callback):
    """Saves the averaged weights of the step that is in the run's facts, in checkpoints/early."""

    def __init__(self, run: Run):
        self.run, self.step = run, run.facts["guidance_step"]
        self.file = early_file(run.folder / "checkpoints", self.step)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the weights from the resumed run's folder if this run starts after that step."""
        if trainer.is_global_zero and trainer.global_step >= self.step and not self.file.is_file():
            assert self.run.resumed is not None
            found = read(at_step(self.run.resumed.path.parent, self.step))
            self.write(network_weights(found["state_dict"]))  # averaged, if there is an average

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the weights on the first process."""
        if trainer.global_step == self.step and self.run.clock.completes_step(batch_idx):
            with averaged_weights(self.run):
                if trainer.is_global_zero:
                    self.write(self.run.module.denoiser.network.state_dict())

    def write(self, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of a network."""
        run, data = self.run, self.run.recipe.data
        labels = dict(zip(data.classes, data.class_counts("train"), strict=True))
        epoch, kind = run.clock.epoch_after(self.step), "ema" if run.recipe.ema else "raw"
        about = exported.metadata(run.settings.model_dump(), run.facts, self.step, epoch, kind, labels)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        exported.write(self.file, weights, about)


def with_worse(run: Run) -> Drawing:
    """Return how the last samples are drawn after training: guided by the weaker model that the run has saved.

    If the run ended before that step, they are drawn without guidance, and a warning is printed.
    """
    if (step := run.facts.get("guidance_step")) is None:
        return run.drawing
    if run.trainer.global_step <= step:
        if run.record is not None:
            words = f"guidance.step={step}: the run ended before this step; its samples are drawn without guidance"
            console.print(words, style="yellow")
        return run.drawing.unguided
    weak = copy.deepcopy(run.module.denoiser)
    weak.network.load_state_dict(exported.read(early_file(run.folder / "checkpoints", step), "")["state_dict"])
    return replace(run.drawing, weak=weak.eval(), waits=False)
