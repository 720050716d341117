"""The LightningModule: the network, the forward process's tables, the objective."""

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diffusion.data import Batch
from diffusion.metric.denoising import DenoisingError, FrozenGrid
from diffusion.metric.gap import PairedGap
from diffusion.model.dropout import examples
from diffusion.process.denoiser import Denoiser, diffuse
from diffusion.process.objective import Objective, Uncertainty
from diffusion.process.prediction import Prediction
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams, real_dtype, seed_for
from diffusion.training.ema import average_of

VALIDATED = ("val", "fit")  # held-out images; as many training images, so that the gap shows over-fitting


def total_steps(trainer: pl.Trainer) -> int:
    """Optimizer steps of the whole run.

    Lightning's `estimated_stepping_batches`, asked before a checkpoint is loaded, would set the data up too early: the
    loader's place in the epoch would not be restored.
    """
    return steps_of(len(trainer.datamodule.train_dataloader()), trainer)  # type: ignore[attr-defined]


def steps_of(batches: int, trainer: pl.Trainer) -> int:
    """Optimizer steps of a whole run whose epochs have so many batches on each device."""
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * epochs
    return int(min(steps, math.inf if trainer.max_steps == -1 else trainer.max_steps))


class Diffusion(pl.LightningModule):
    """Trains `network` as a denoiser and validates it on a frozen grid of (t, eps).

    Times and noise of a training example are functions of (seed, epoch, its index in the split): an example is seen
    once an epoch, so its draw depends neither on the batch it is in, nor on the number of devices, nor on a restart.
    Its dropout is a function of (seed, step, index), if the network drops out by `diffusion.model.dropout`.

    Args:
        network: (x, label) -> prediction.
        schedule, prediction, objective: see `diffusion.process`.
        optimizer: parameters -> Optimizer.
        lr_scheduler: (optimizer, total_steps) -> LRScheduler, stepped after every optimizer step.
        seed: counts the randomness.
        draws: times and noises an image in validation.
        grid_seed: of these, alike for runs of all seeds, so that their errors are paired.
        config: the run's configuration as yaml text, kept in every checkpoint so that it can be rebuilt.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: Prediction,
        objective: Objective | Uncertainty,
        optimizer: Callable[..., Optimizer],
        lr_scheduler: Callable[[Optimizer, int], LRScheduler],
        seed: int = 0,
        draws: int = 1,
        grid_seed: int = 0,
        config: str = "",
    ):
        super().__init__()
        self.denoiser = Denoiser(network, schedule, prediction)
        self.objective = objective
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.seed = seed
        self.config = config
        self.draws = draws
        self.stepped = True  # whether the last optimizer step was one
        self.frozen = FrozenGrid(draws, grid_seed, getattr(schedule, "steps", None))
        self.errors = nn.ModuleDict({f"{split}_{w}": DenoisingError() for split in VALIDATED for w in ("ema", "raw")})
        self.gaps = nn.ModuleDict({weights: PairedGap() for weights in ("ema", "raw")})
        self.differences: dict[str, Tensor] = {}  # by weights: the last validation's, held-out less training images
        self.clusters: Tensor | None = None  # of these, by the images' sources: see `diffusion.metric.gap`

    def forward(self, x_t: Tensor, t: Tensor) -> Any:
        """The denoiser's estimate."""
        return self.denoiser(x_t, t)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed what no stream counts by the step: alike on all devices and in all its batches, see `model.dropout`."""
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step  # see `optimizer_step`
        seed = seed_for(self.seed, "dropout", self.trainer.global_step)
        # Not torch.manual_seed, which on a machine without a GPU formats the whole call stack for later, every time.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            getattr(torch, self.device.type).manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss of a batch."""
        x0 = self.images(batch)
        with examples(batch.index.to(self.device, non_blocking=True)):
            losses = self.objective(self.denoiser, x0, self.streams(batch, batch_idx))
        self.objective.update(self.everywhere(losses["t"]), self.everywhere(losses["term"]))
        loss = losses["loss"].mean()
        self.log("train/loss", self.everywhere(losses["loss"]).mean(), on_step=True, on_epoch=False, batch_size=len(x0))
        return loss

    def everywhere(self, values: Tensor) -> Tensor:
        """Values (B,) of this device -> those of all devices, (B · devices,)."""
        gathered = self.all_gather(values.detach())
        assert isinstance(gathered, Tensor)
        return gathered.flatten()

    def streams(self, batch: Batch, batch_idx: int) -> Streams:
        """The random streams of a training batch, which know its place in the global batch of all devices."""
        n = len(batch.index)
        return Streams(
            [seed_for(self.seed, "train", self.current_epoch, index) for index in batch.index.tolist()],
            self.device,
            batch_seed=seed_for(self.seed, "batch", self.current_epoch, batch_idx),
            positions=range(self.global_rank * n, (self.global_rank + 1) * n),
            batch_size=n * self.trainer.world_size,
        )

    def images(self, batch: Batch) -> Tensor:
        """x0 in float32, or in float64 where the network is; the forward process is never rounded to half precision."""
        own = next(self.denoiser.parameters()).dtype
        return batch.image.to(torch.promote_types(batch.image.dtype, own))

    def raw_denoiser(self) -> Denoiser | None:
        """The denoiser with the raw weights, while validation has the averaged ones in place; None without EMA."""
        average = average_of(self.trainer)
        return None if average is None else average.stored.denoiser  # type: ignore[return-value]

    def error(self, split: str, weights: str) -> DenoisingError:
        """The running error of one kind of images with one kind of weights."""
        metric = self.errors[f"{split}_{weights}"]
        assert isinstance(metric, DenoisingError)
        return metric

    def gap(self, weights: str) -> PairedGap:
        """The gap between the two kinds of images with one kind of weights."""
        metric = self.gaps[weights]
        assert isinstance(metric, PairedGap)
        return metric

    def on_validation_epoch_start(self) -> None:
        """The sources of the images, without which tiles of one photograph would pass for independent."""
        loaders = zip(VALIDATED, self.trainer.val_dataloaders, strict=True)  # type: ignore[arg-type]
        sources = {part: loader.dataset.sources for part, loader in loaders}
        for weights in ("ema", "raw"):
            self.gap(weights).sources = sources

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """(eps_θ − eps)² of each image at its frozen times and noises, with averaged and with raw weights."""
        split = VALIDATED[dataloader_idx]
        denoisers = {"ema": self.denoiser, "raw": self.raw_denoiser()}
        x0 = self.images(batch)
        for k in range(self.draws):
            t = self.frozen.t(batch.index, k).to(self.device, real_dtype(self.device))
            eps = self.frozen.noise(batch.index, k, x0)
            x_t = diffuse(self.denoiser.schedule, x0, eps, t)
            for weights, denoiser in denoisers.items():
                if denoiser is not None:
                    error = (denoiser(x_t, t).eps - eps).square().flatten(1).mean(dim=1)
                    self.error(split, weights).update(error, t)
                    self.gap(weights).update(split, error, t, batch.index, k)

    def on_validation_epoch_end(self) -> None:
        """Log val/mse, fit/mse, their gap, and the bins of t; `_raw`: the raw weights', beside EMA's.

        Of a gap `se` is the standard error, `half` half the width of its 95% interval.
        """
        logged: dict[str, Tensor] = {}
        for weights, suffix in (("ema", ""), ("raw", "_raw")):
            if weights == "raw" and self.raw_denoiser() is None:
                continue
            results = {split: self.error(split, weights).compute() for split in VALIDATED}
            for split, result in results.items():
                logged[f"{split}/mse{suffix}"] = result["mse"]
            logged[f"gap/mse{suffix}"] = results["val"]["mse"] - results["fit"]["mse"]
            gap = self.gap(weights).compute()
            logged |= {f"gap/se{suffix}": gap["gap"].error, f"gap/half{suffix}": gap["gap"].half()}
            # reshaped, as torchmetrics squeezes what is of one image
            self.differences[weights], self.clusters = gap["images"].reshape(-1), gap["clusters"].reshape(2, -1)
            for i, each in enumerate(gap["bins"]):
                logged |= {f"gap/mse_bin{i}{suffix}": each.mean, f"gap/half_bin{i}{suffix}": each.half()}
            if weights == "ema":
                for split, result in results.items():
                    logged |= {f"{split}/mse_bin{i}": value for i, value in enumerate(result["bins"])}
        for weights in ("ema", "raw"):
            self.gap(weights).reset()
            for split in VALIDATED:
                self.error(split, weights).reset()
        if not self.trainer.sanity_checking:
            self.log_dict({name: value.float().to(self.device) for name, value in logged.items()})

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step that the guard or float16's scaler leaves out is none: it is not counted, and so not averaged."""
        self.stepped = False
        super().optimizer_step(*args, **kwargs)
        if not self.stepped:
            loop = self.trainer.fit_loop.epoch_loop
            count = loop.automatic_optimization.optim_progress.optimizer.step
            for part in (count.total, count.current):
                part.ready -= 1
                part.completed -= 1  # Lightning counts it next
            loop._batches_that_stepped = max(0, loop._batches_that_stepped - 1)  # what is logged belongs to the last

    def note_step(self, optimizer: Optimizer, *_: Any) -> None:
        """`optimizer` has made a step, if it was given gradients. A fused one leaves out what overflows by itself."""
        given = any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        overflow = getattr(optimizer, "found_inf", None)
        self.stepped = given and not (overflow is not None and bool(overflow))

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """The rate moves with the steps."""
        if self.stepped:
            super().lr_scheduler_step(scheduler, metric)

    def configure_optimizers(self) -> Any:
        """The optimizer, and its schedule by the step."""
        optimizer = self.optimizer(list(self.parameters()))
        optimizer.register_step_post_hook(self.note_step)
        scheduler = self.lr_scheduler(optimizer, total_steps(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint carries its configuration as text."""
        checkpoint["config"] = self.config
