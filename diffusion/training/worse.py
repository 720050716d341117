"""Autoguidance by the run itself: its averaged weights after `guidance.step` steps guide its last samples."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from diffusion.checkpoint import early, exported
from diffusion.config.schema import Train
from diffusion.console import console
from diffusion.evaluation.drawing import Drawing
from diffusion.files import copy as copy_file
from diffusion.process.denoiser import Denoiser
from diffusion.runs.record import RunRecord
from diffusion.training.clock import Clock
from diffusion.training.module import Diffusion
from diffusion.training.periodic import averaged_weights
from diffusion.training.saving import unwritable
from diffusion.training.sharding import whole


class KeepEarlyWeights(Callback):
    """Keeps the averaged weights of one step, in checkpoints/early.

    Args:
        drawing: How the last samples will be drawn.
        folder: The run's folder.
        settings: Of the run; the file holds what of them builds the network.
        record: Of the run, on its first process: nothing is written in a folder that another run has taken.
        resumed: The checkpoint that the run resumes from.

    Where the run does not make that step, this is printed.
    """

    def __init__(
        self,
        drawing: Drawing,
        folder: Path,
        settings: Train,
        clock: Clock,
        record: RunRecord | None,
        resumed: Path | None,
    ):
        step = step_of(drawing)
        if step >= clock.total and record is not None:
            console.print(
                f"guidance.step={step}: the run has {clock.total} steps, so its last samples will be drawn without "
                f"guidance; guidance.step={max(1, round(0.4 * clock.total))} would guide them",
                style="yellow",
            )
        self.step, self.file, self.settings = step, early.file_of(folder / "checkpoints", step), settings
        self.labels, self.clock, self.record, self.resumed = drawing.counts, clock, record, resumed

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the weights along where a run is resumed behind that step in another folder."""
        if not trainer.is_global_zero or trainer.global_step < self.step or self.file.is_file():
            return
        assert self.resumed is not None  # the run is past the step
        copy_file(early.find(self.resumed.parent, self.step), self.file)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write them, on the first process."""
        if trainer.global_step != self.step or not self.clock.completes_step(batch_idx):
            return
        assert isinstance(pl_module, Diffusion)
        with averaged_weights(trainer, pl_module):
            denoiser = whole(trainer, pl_module.denoiser)
            if self.record is not None:
                self.write(denoiser, self.record)

    def write(self, denoiser: Denoiser, record: RunRecord) -> None:
        """Write the weights of a denoiser. Raises UserError where they cannot be written."""
        record.check_owner()
        weights, kind = denoiser.network.state_dict(), "ema" if self.settings.ema else "raw"
        epoch = self.clock.epoch_after(self.step)
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            exported.write(self.file, weights, self.settings.model_dump(), self.step, epoch, kind, self.labels)
        except OSError as error:
            raise unwritable(self.file, self.file.parents[2], error) from error


def step_of(drawing: Drawing) -> int:
    """`guidance.step` of a drawing that waits for it."""
    assert drawing.guidance is not None
    assert drawing.guidance.step is not None
    return drawing.guidance.step


def with_worse(settings: Train, drawing: Drawing, folder: Path, module: Diffusion) -> tuple[Train, Drawing]:
    """How the last samples are drawn, when the run has been trained: with the worse model that it has kept.

    Where it ended before that step, they are drawn without guidance, which is printed.
    """
    if not drawing.waits:
        return settings, drawing
    step = step_of(drawing)
    file = early.file_of(folder / "checkpoints", step)
    if module.trainer.global_step <= step:
        if module.trainer.is_global_zero:
            words = f"guidance.step={step}: the run ended before; its samples are drawn without guidance"
            console.print(words, style="yellow")
        return settings.model_copy(update={"guidance": {}}), drawing.unguided
    weak: Denoiser = copy.deepcopy(whole(module.trainer, module.denoiser))
    weak.network.load_state_dict(exported.read(file, "")["state_dict"])
    return settings, replace(drawing, weak=weak.eval())
