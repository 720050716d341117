"""When checkpoints are saved, which are kept, and under which names."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from diffusion.checkpoint import storage
from diffusion.config.quoting import going_on
from diffusion.console import console
from diffusion.errors import UserError
from diffusion.files import copy, link
from diffusion.training.module import total_steps

COPIES = 4  # of the weights in a checkpoint: raw, averaged, and Adam's two moments


class Checkpoints(Checkpoint):
    """step-00001234.ckpt, the last `keep` of them; last.ckpt is the newest, best.ckpt that of the lowest val/mse.

    One is saved after every validation, after every `every_n_steps` optimizer steps if asked, and at the end.

    Args:
        resumed: the checkpoint that the run goes on from; its folder's best.ckpt is brought along.
    """

    def __init__(self, folder: Path, keep: int = 2, every_n_steps: int | None = None, resumed: Path | None = None):
        if not (isinstance(keep, int) and keep >= 2):
            raise UserError(f"checkpoint.keep={keep}: a damaged checkpoint needs one before it; keep at least 2")
        if every_n_steps is not None and not (isinstance(every_n_steps, int) and every_n_steps >= 1):
            raise UserError(f"checkpoint.every_n_steps={every_n_steps}: expected at least 1, or null")
        self.folder = folder / "checkpoints"
        self.keep, self.every, self.resumed = keep, every_n_steps, resumed
        self.best = math.inf  # the lowest val/mse
        self.latest = math.nan  # the last val/mse
        self.saved_at = -1  # the step of the newest checkpoint
        self.due = False

    def state_dict(self) -> dict[str, float]:
        """The scores."""
        return {"best": self.best, "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Take the scores over, and the best so far into this run's folder."""
        self.best, self.latest = state_dict["best"], state_dict["latest"]
        if self.resumed is None or self.resumed.parent.resolve() == self.folder.resolve():
            return
        source = self.resumed.parent / "best.ckpt"
        try:
            storage.verify(source)
            copy(source, self.folder / "best.ckpt")
        except (storage.Damaged, OSError):
            self.best = math.inf  # the next validation is the best of those that can be had

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a disk on which the checkpoints will not fit, before the first step."""
        if not trainer.is_global_zero:
            return
        weights = sum(p.numel() * p.element_size() for p in pl_module.parameters())
        status = [file.stat() for file in storage.all_files(self.folder) if file.is_file()]
        there = sum({s.st_ino: s.st_size for s in status}.values())  # each gives way to a new one
        one = COPIES * weights
        needed, free = max(one, (self.keep + 2) * one - there), storage.free(self.folder)
        if free < needed:
            raise UserError(
                f"{self.folder}: {free / 1e9:.2f} GB are free, and the checkpoints take {needed / 1e9:.2f} GB more; "
                f"make room, or choose another disk (hydra.run.dir=…)"
            )

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Save every so many steps; where a validation or the epoch's end follows, after that."""
        if self.every is None or trainer.global_step % self.every or trainer.global_step == self.saved_at:
            return
        if not step_is_complete(trainer) or validation_follows(trainer):
            return
        self.due = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if not self.due:
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, as the best too if it is."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.latest = float(trainer.callback_metrics.get("val/mse", math.nan))
        better = self.latest < self.best
        self.best = min(self.best, self.latest) if better else self.best
        self.save(trainer, better)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what was due at the epoch's last step, and the run's last step where no validation did."""
        last = trainer.global_step >= total_steps(trainer)
        if (self.due or last) and self.saved_at != trainer.global_step:
            self.save(trainer)
        self.due = False

    def save(self, trainer: pl.Trainer, best: bool = False) -> None:
        """Save the present state, as the best too if it is, and let others go."""
        step = trainer.global_step
        path = storage.numbered(self.folder, step)
        try:
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                for name in ("last", "best") if best else ("last",):
                    link(path, self.folder / f"{name}.ckpt")
                self.let_go(step)
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror or error}; those before it are whole: mend that, and go on by "
                f"{going_on(self.folder.parent)}"
            ) from error
        self.saved_at = step

    def let_go(self, step: int) -> None:
        """Remove the oldest beyond `keep`, and what is newer than `step`: the run went back, and that is no more it."""
        files = [file for file in storage.numbered_files(self.folder) if file.is_file()]
        left = [file for file in files if storage.step_named(file) > step]
        for old in left + files[len(left) + self.keep :]:
            old.unlink()
        if left:
            console.print(f"removed {', '.join(file.name for file in left)}: the run went back to before, and goes on")


def step_is_complete(trainer: pl.Trainer) -> bool:
    """False within the accumulation of a step's gradients, which no checkpoint holds."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def validate_after_steps(trainer: pl.Trainer) -> None:
    """Have Lightning validate after whole optimizer steps alone: those in which an N-th batch falls.

    It would validate, and save, after that very batch. Within an accumulation the gradients so far would be lost to a
    run that goes on from there.
    """
    loop = trainer.fit_loop.epoch_loop
    asked = loop._should_check_val_fx

    def at_its_end(data_fetcher: Any) -> bool:
        return step_is_complete(trainer) and (asked(data_fetcher) or passed())

    def passed() -> bool:
        every = trainer.val_check_batch
        if every in (None, math.inf) or not loop._should_check_val_epoch():
            return False
        last = 1 + (loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx)
        before = last - 1 - (loop.batch_progress.current.ready - 1) % trainer.accumulate_grad_batches
        return bool(last // every > before // every)

    loop._should_check_val_fx = at_its_end  # type: ignore[method-assign]


def validation_follows(trainer: pl.Trainer) -> bool:
    """Whether Lightning validates after the batch that has just ended."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return bool(trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher))
