"""When checkpoints are saved, which are kept, and under which names."""

import math
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from diffusion.checkpoint import storage
from diffusion.config import schema
from diffusion.config.quoting import resume_command
from diffusion.console import console
from diffusion.errors import UserError
from diffusion.files import copy, link
from diffusion.runs.record import RunRecord
from diffusion.training.clock import Clock

COPIES = 4  # of the weights in a checkpoint: raw, averaged, and Adam's two moments


class Checkpoints(Checkpoint):
    """Saves step-00001234.ckpt and keeps the last `keep`; last.ckpt is the newest, best.ckpt has the lowest val/mse.

    One is saved after every validation, including the last one, and every `every_n_steps` optimizer steps if that is
    set.

    Args:
        folder: The run's folder.
        record: The run's record on the first process: nothing is saved in a folder that another run has taken over.
        resumed: The checkpoint that the run resumes from; best.ckpt is copied from its folder.
    """

    def __init__(
        self,
        folder: Path,
        settings: schema.Checkpoint,
        clock: Clock,
        record: RunRecord | None = None,
        resumed: Path | None = None,
    ):
        self.folder, self.record = folder / "checkpoints", record
        self.keep, self.every, self.clock, self.resumed = settings.keep, settings.every_n_steps, clock, resumed
        self.best = math.inf  # the lowest val/mse
        self.latest = math.nan  # the last val/mse
        self.saved_at = -1  # the step of the newest checkpoint

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best, "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restore the scores, and copy the best checkpoint so far into this run's folder."""
        self.best, self.latest = state_dict["best"], state_dict["latest"]
        if self.resumed is None or self.resumed.parent.resolve() == self.folder.resolve():
            return
        source = self.resumed.parent / "best.ckpt"
        try:
            storage.verify(source)
            copy(source, self.folder / "best.ckpt")
        except (storage.Damaged, OSError):
            self.best = math.inf  # the next validation is the best of those whose checkpoint exists

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget a best checkpoint of steps that are made again; raise UserError if the checkpoints will not fit."""
        best = self.folder / "best.ckpt"
        if best.is_file() and storage.step_in_file(best) > trainer.global_step:
            self.best = math.inf
        if not trainer.is_global_zero:
            return
        weights = sum(p.numel() * p.element_size() for p in pl_module.parameters())
        status = [file.stat() for file in storage.all_files(self.folder) if file.is_file()]
        present = sum({s.st_ino: s.st_size for s in status}.values())  # each will be replaced by a new one
        one = COPIES * weights
        self.folder.mkdir(parents=True, exist_ok=True)
        needed, free = max(one, (self.keep + 2) * one - present), shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"{self.folder}: {free / 1e9:.2f} GB are free, but the checkpoints need {needed / 1e9:.2f} GB more; "
                f"free some space, or choose another disk (hydra.run.dir=…)"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every `every_n_steps` steps, unless a validation follows, which also saves."""
        step = trainer.global_step
        if self.every is None or step % self.every or not self.clock.completes_step(batch_idx):
            return
        if self.saved_at != step and not self.clock.validates(step):
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, also as best.ckpt if val/mse is the lowest so far."""
        self.latest = float(trainer.callback_metrics.get("val/mse", math.nan))
        better = self.latest < self.best
        if better:
            self.best = self.latest
        self.save(trainer, better)

    def save(self, trainer: pl.Trainer, best: bool = False) -> None:
        """Save the current state, also as best.ckpt if `best`, and remove old checkpoints."""
        step = trainer.global_step
        path = storage.numbered(self.folder, step)
        try:
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                for name in ("last", "best") if best else ("last",):
                    link(path, self.folder / f"{name}.ckpt")
                self.prune(step)
        except OSError as error:
            raise unwritable(path, self.folder.parent, error) from error
        self.saved_at = step

    def prune(self, step: int) -> None:
        """Remove the oldest beyond `keep`, and those after `step`, left from before the run was resumed."""
        files = [file for file in storage.numbered_files(self.folder) if file.is_file()]
        later = [file for file in files if storage.step_in_name(file) > step]
        for old in later + files[len(later) + self.keep :]:
            old.unlink()
        if later:
            console.print(f"removed {', '.join(file.name for file in later)}: the run was resumed from an earlier step")


def unwritable(file: Path, run: Path, error: OSError) -> UserError:
    """Return the error for a checkpoint, or a file next to the checkpoints of `run`, that could not be written."""
    return UserError(
        f"cannot write {file}: {error.strerror or error}; earlier checkpoints are intact; fix this, and resume with "
        f"{resume_command(run)}"
    )
