"""Callbacks of the config group `callbacks`: early stopping and additional logging.

Any other Lightning callback, or a custom one, can be added by its full name:
`+callbacks.NAME._target_=my_package.MyCallback`.
"""

import time
from typing import Annotated, Any, Literal

import lightning.pytorch as pl
import torch
from annotated_types import Ge
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch.optim import Optimizer

from diffusion.errors import UserError
from diffusion.training.guard import norm_of
from diffusion.training.timing import peak_bytes


class EarlyStopping(callbacks.EarlyStopping):
    """Ends the run when a monitored metric has stopped improving.

    A run that was stopped this way stays stopped when it is resumed, unless `patience` is now greater, or another
    `stopping_threshold` is set. (Lightning's EarlyStopping would train until the next validation, with the patience of
    the checkpoint.)

    Args:
        monitor: The metric to monitor, such as val/mse or val/mse_raw.
        mode: Whether the metric should become small (min) or large (max).
        patience: Number of consecutive validations without improvement after which the run ends.
        min_delta: A change must be greater than this to count as an improvement.
        stopping_threshold: The value at which the run ends immediately; null for none.
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
        self.reached = False  # whether the resumed run has reached the threshold

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"stopping_threshold": self.stopping_threshold}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count, but keep the patience of this run."""
        super().load_state_dict(state_dict | {"patience": self.patience})
        same = state_dict.get("stopping_threshold") == self.stopping_threshold
        self.reached = same and self.stopping_reason == EarlyStoppingReason.STOPPING_THRESHOLD

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stay stopped if the threshold is reached or the patience is used up."""
        if self.reached or self.wait_count >= self.patience:
            trainer.should_stop = True
        else:
            self.stopping_reason, self.stopping_reason_message = EarlyStoppingReason.NOT_STOPPED, None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the metric. Raises UserError if validation does not log it."""
        numbers = sorted(name for name in trainer.callback_metrics if name.startswith(("val/", "fit/", "gap/")))
        if self.monitor not in trainer.callback_metrics:
            raise UserError(
                f"early stopping with monitor={self.monitor}: validation logs no such metric; it logs "
                f"{', '.join(numbers)}"
            )
        super().on_validation_end(trainer, pl_module)


UNSUPPORTED: dict[type[Callback], str] = {  # Lightning's callbacks for what a run does by itself -> what to set instead
    callbacks.ProgressBar: "a run has its own progress bar",
    callbacks.BatchSizeFinder: "set data.batch_size=auto with data.global_batch_size",
    callbacks.LearningRateFinder: "sweep optimizer.lr",
    callbacks.GradientAccumulationScheduler: "set trainer.accumulate_grad_batches",
    callbacks.StochasticWeightAveraging: "choose an average with ema=…",
    callbacks.WeightAveraging: "choose an average with ema=…",
}


def supported(callback: Callback, where: str) -> Callback:
    """Return the callback. Raises UserError if a run does this by itself, so that the callback would have no effect."""
    for kind, instead in UNSUPPORTED.items():
        if isinstance(callback, kind):
            raise UserError(f"{where}: {type(callback).__name__} does not work here; {instead}")
    return callback


class LoggedSteps(Callback):
    """Base class of callbacks that log a row of metrics.csv every `trainer.log_every_n_steps` optimizer steps."""

    @staticmethod
    def is_due(trainer: pl.Trainer) -> bool:
        """Whether the step just completed has a row."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and trainer.global_step % every == 0


class Throughput(LoggedSteps):
    """Logs train/images_per_second, over all devices, and train/steps_per_second, since the last row.

    Validation is excluded. Steps do not wait for a GPU to finish, so the rates of single steps mean little there.
    """

    def __init__(self) -> None:
        self.began: float | None = None
        self.step = 0  # the step at which the interval began
        self.images = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Start an interval."""
        if self.began is None:
            self.began, self.step, self.images = time.monotonic(), trainer.global_step, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log if the step has a row."""
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
        """End the interval; another one starts after the validation."""
        self.began = None


class GradientNorm(LoggedSteps):
    """Logs train/gradient_norm: the norm of the whole gradient of a step, before clipping."""

    def __init__(self) -> None:
        self.norm: torch.Tensor | None = None

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure the norm."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norm = norm_of(gradients) if gradients else None
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if self.norm is not None and scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            self.norm = self.norm / scaler.get_scale()  # a fused optimizer gets scaled gradients

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Log if the step has a row."""
        if self.norm is not None and self.is_due(trainer):
            pl_module.log("train/gradient_norm", self.norm, batch_size=1)


class Memory(LoggedSteps):
    """Logs memory/peak_gb: peak memory so far (10⁹ bytes), of the GPU's tensors or, without a GPU, of the process."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Log if the step has a row."""
        if not self.is_due(trainer):
            return
        pl_module.log("memory/peak_gb", peak_bytes(pl_module.device) / 1e9, batch_size=1)


class DeviceStats(callbacks.DeviceStatsMonitor):
    """Logs the device's own statistics at logged steps, such as memory by kind; for a CPU its load, by psutil."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raises UserError on a CPU without psutil."""
        try:
            super().setup(trainer, pl_module, stage)
        except ModuleNotFoundError as error:
            raise UserError(
                "callbacks=device_stats: on a CPU it needs psutil; pip install psutil, or remove it"
            ) from error
