"""When checkpoints are saved, which are kept, and under which names."""

import contextlib
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from diffusion.checkpoint import storage
from diffusion.console import console
from diffusion.errors import UserError, resume_command
from diffusion.files import link
from diffusion.training.prepared import Run


class Checkpoints(Checkpoint):
    """Saves step-00001234.ckpt and keeps the last `keep`; last.ckpt is the newest, best.ckpt has the lowest val/mse.

    One is saved after every validation, including the last one, and every `every_n_steps` optimizer steps if that is
    set.
    """

    def __init__(self, run: Run):
        settings = run.settings.checkpoint
        self.folder, self.clock, self.resumed = run.folder / "checkpoints", run.clock, run.resumed
        self.keep, self.every = settings.keep, settings.every_n_steps
        self.best = math.inf  # the lowest val/mse of the checkpoints in this folder
        self.saved_at = 0  # the step of the newest checkpoint

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restore the lowest error, unless best.ckpt is in another folder or of steps that are made again."""
        assert self.resumed is not None
        with contextlib.suppress(UserError):
            best = storage.load(self.folder / "best.ckpt", mapped=True)
            self.best = state_dict["best"] if best["global_step"] <= self.resumed.step else self.best

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save every `every_n_steps` steps, unless a validation follows, which also saves."""
        step = trainer.global_step
        due = self.every is not None and step % self.every == 0 and not self.clock.validates(step)
        if due and self.clock.completes_step(batch_idx):
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, also as best.ckpt if val/mse is the lowest so far."""
        before, self.best = self.best, min(self.best, float(trainer.callback_metrics["val/mse"]))
        self.save(trainer, best=self.best < before)

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
