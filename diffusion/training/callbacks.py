"""Callbacks that a run is given by the group `callbacks`: what ends it early, and what else is logged.

Any other callback of Lightning, or of one's own, can be given by its full name:
`+callbacks.NAME._target_=my_package.MyCallback`.
"""

import time
from typing import Annotated, Any, Literal

import lightning.pytorch as pl
import torch
from annotated_types import Ge
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer

from diffusion.errors import UserError
from diffusion.training.sharding import norm_of
from diffusion.training.spent import peak_bytes


class EarlyStopping(callbacks.EarlyStopping):
    """Ends the run at a validation after which a number has not improved for a while.

    A run that is resumed after it was ended so stays ended, unless `patience` is now greater. (Lightning's own would
    train to the next validation, and take the patience from the checkpoint.)

    Args:
        monitor: What is watched, such as val/mse or val/mse_raw.
        mode: Whether it is to become small or large.
        patience: Validations in a row without an improvement, after which the run ends.
        min_delta: An improvement is greater than this.
        stopping_threshold: The value at which the run ends at once; null for none.
    """

    def __init__(
        self,
        monitor: str = "val/mse",
        mode: Literal["min", "max"] = "min",
        patience: Annotated[int, Ge(1)] = 10,
        min_delta: Annotated[float, Ge(0)] = 0.0,
        stopping_threshold: float | None = None,
    ):
        super().__init__(
            monitor, min_delta, patience, mode=mode, check_finite=False, stopping_threshold=stopping_threshold,
            check_on_train_epoch_end=False,
        )  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the count; the patience is that of this run."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stay ended."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the number. Raises UserError where there is no such number."""
        numbers = sorted(name for name in trainer.callback_metrics if name.startswith(("val/", "fit/", "gap/")))
        if self.monitor not in trainer.callback_metrics:
            raise UserError(
                f"early stopping with monitor={self.monitor}: validation logs no such metric; it logs "
                f"{', '.join(numbers)}"
            )
        super().on_validation_end(trainer, pl_module)


class LoggedSteps(Callback):
    """What is logged in the rows of metrics.csv, every `trainer.log_every_n_steps` optimizer steps."""

    @staticmethod
    def is_due(trainer: pl.Trainer) -> bool:
        """Whether the step that has just been made has a row."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and trainer.global_step % every == 0


class Throughput(LoggedSteps):
    """Logs train/images_per_second, of all devices, and train/steps_per_second, since the last row.

    Validations are not counted. No step waits for a GPU to finish it, so the rates of single steps mean little there.
    """

    def __init__(self) -> None:
        self.began: float | None = None
        self.step = 0  # at which the rows' interval began
        self.images = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Begin an interval."""
        if self.began is None:
            self.began, self.step, self.images = time.monotonic(), trainer.global_step, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log at a row's step."""
        self.images += len(batch.index) * trainer.world_size
        steps = trainer.global_step - self.step
        if self.began is None or not steps or not self.is_due(trainer):
            return
        seconds = max(1e-9, time.monotonic() - self.began)
        pl_module.log_dict(
            {"train/images_per_second": self.images / seconds, "train/steps_per_second": steps / seconds}, batch_size=1
        )
        self.began = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin another interval after it."""
        self.began = None


class GradientNorm(LoggedSteps):
    """Logs train/gradient_norm: the norm of the whole gradient of a step, before it is clipped."""

    def __init__(self) -> None:
        self.norm: torch.Tensor | None = None

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norm = norm_of(gradients) if gradients else None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Log at a row's step."""
        if self.norm is not None and self.is_due(trainer):
            pl_module.log("train/gradient_norm", self.norm, batch_size=1)


class Memory(LoggedSteps):
    """Logs memory/peak_gb: the most memory (10⁹ bytes) so far, of the GPU's tensors or, without one, of the process."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Log at a row's step."""
        if not self.is_due(trainer):
            return
        pl_module.log("memory/peak_gb", peak_bytes(pl_module.device) / 1e9, batch_size=1)


class DeviceStats(callbacks.DeviceStatsMonitor):
    """Logs what the device reports of itself at logged steps, such as its memory by kinds; a CPU's load, by psutil."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raises UserError on a CPU without psutil."""
        try:
            super().setup(trainer, pl_module, stage)
        except ModuleNotFoundError as error:
            raise UserError(
                "callbacks=device_stats: on a CPU it needs psutil; pip install psutil, or leave it out"
            ) from error
