"""Averages of the weights, which validation and sampling use: exponential, power functions, the optimizer's own."""

import copy
from pathlib import Path
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
from annotated_types import Ge, Gt, Le, MinLen
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from diffusion.base.files import link
from diffusion.checkpoint import storage
from diffusion.checkpoint.storage import snapshot, snapshots
from diffusion.errors import UserError
from diffusion.process.averaging import decay, gamma_of


class EMA(Callback):
    """w̄ ← w̄ + (1 − d_n)(w − w̄) after optimizer step n, with d_n = min(decay, (1 + n)/(10 + n)).

    The recurrence starts from the initial weights. Without the warm-up of d_n, a decay of 0.9995 would keep 60% of the
    initial weights after 1000 steps. During validation, and for the last samples, the module holds w̄. Buffers (tables,
    histories) are copied, not averaged. w̄ of weights in half precision (`trainer.precision=bf16-true`) is computed in
    float32 and rounded to theirs: in bfloat16, updates of less than 1/512 of a weight would be lost.

    A checkpoint's `state_dict` holds w̄, its `current_model_state` holds w, as with Lightning's WeightAveraging. (That
    callback has no warm-up, and reads a counter from the device at every step.)

    Args:
        decay: The largest d_n, close to 1. The averaging window is about 1/(1 − decay) steps.
    """

    def __init__(self, decay: Annotated[float, Ge(0), Le(1)] = 0.9995):
        self.decay = decay
        self.average: Any = None  # a copy of the module: w̄ while training, w while validating
        self.swapped = False  # whether the module holds w̄, and `average` holds w
        self.step = 0  # the last optimizer step
        self.updates = 0  # n: the steps so far, without skipped ones
        self.averages: list[list[Tensor]] = []  # w̄ in float32 or better; PowerEMA has several
        self.saved: list[dict[str, Tensor]] = []  # the same in the checkpoint that the run resumes from, by name

    def rates(self, n: int) -> list[float]:
        """1 − d_n for each average at optimizer step n = 1, 2, …"""
        return [1 - min(self.decay, (1 + n) / (10 + n))]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copy the module. The copy is only ever evaluated: dropout must not disturb the raw weights' validation."""
        self.average = copy.deepcopy(pl_module).requires_grad_(False).eval()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect the tensors, which are on their device now: walking the modules takes longer than averaging."""
        self.average.to(pl_module.device)
        self.weights = [p.detach() for p in pl_module.parameters()]
        self.copies = list(self.average.parameters())
        self.buffers = list(zip(self.average.buffers(), pl_module.buffers(), strict=True))
        self.half = any(weight.dtype.itemsize < 4 for weight in self.weights)
        first = [average.float() for average in self.copies] if self.half else self.copies
        self.averages = [first, *([average.clone() for average in first] for _ in self.rates(1)[1:])]
        for averages, saved in zip(self.averages, self.saved, strict=False):
            torch._foreach_copy_(averages, [saved[name] for name in self.names])
        self.saved = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Update the average after a batch that completed an optimizer step, unless the step was skipped."""
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        if not pl_module.stepped:
            return
        self.updates += 1
        self.average_weights()
        if self.half:
            torch._foreach_copy_(self.copies, self.averages[0])
        for average, current in self.buffers:
            average.copy_(current)

    def average_weights(self) -> None:
        weights = [weight.float() for weight in self.weights] if self.half else self.weights
        for averages, rate in zip(self.averages, self.rates(self.updates), strict=True):
            torch._foreach_lerp_(averages, weights, rate)

    @property
    def names(self) -> list[str]:
        """Names of the module's parameters, in the order of the averages."""
        return [name for name, _ in self.average.named_parameters()]

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.swap(pl_module)

    on_validation_epoch_end = on_validation_epoch_start

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Undo the swap if a validation is interrupted: the state is saved next."""
        if self.swapped:
            self.swap(pl_module)

    @torch.no_grad()
    def swap(self, module: pl.LightningModule) -> None:
        """Exchange the weights and buffers of the module with the copy's; a second call undoes it."""
        ours_all, theirs_all = ([*each.parameters(), *each.buffers()] for each in (self.average, module))
        for ours, theirs in zip(ours_all, theirs_all, strict=True):
            kept = ours.clone()
            ours.copy_(theirs)
            theirs.copy_(kept)
        self.swapped = not self.swapped

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = self.average.state_dict()

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.average.load_state_dict(checkpoint["state_dict"])
        pl_module.load_state_dict(checkpoint["current_model_state"])

    def state_dict(self) -> dict[str, Any]:
        exact = {"exact": dict(zip(self.names, self.averages[0], strict=True))} if self.half else {}
        return {"latest_update_step": self.step, "updates": self.updates, **exact}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts; `on_train_start` restores the averages, when everything is on its device."""
        self.step, self.updates = state_dict["latest_update_step"], state_dict["updates"]
        self.saved = [state_dict["exact"]] if "exact" in state_dict else []


class PowerEMA(EMA):
    """w̄ ← w̄ + (1 − β_γ(n))(w − w̄) after optimizer step n, with β_γ(n) = (1 − 1/n)^(γ+1), for several γ in parallel.

    These are the averages of `diffusion.process.averaging` (Karras et al. 2024, "Analyzing and Improving the Training
    Dynamics of Diffusion Models", section 3). Validation and samples use the first length. For other lengths,
    `weights=0.08` in `diffusion sample`, evaluate and study combines the snapshots in checkpoints/averages/, which hold
    all averages in float32 or better.

    Args:
        lengths: σ_rel of the averages: the width of the part of the training that each covers, as a fraction.
        snapshots: Number of snapshots, evenly spaced over the run; with more, shorter lengths can be computed.
    """

    def __init__(
        self,
        lengths: Annotated[list[Annotated[float, Gt(0), Le(0.288)]], MinLen(1)] | None = None,
        snapshots: Annotated[int, Ge(1)] = 16,
    ):
        super().__init__()
        self.lengths = [float(length) for length in lengths or (0.05, 0.10)]
        self.gammas = [gamma_of(length) for length in self.lengths]
        self.snapshots = snapshots

    def rates(self, n: int) -> list[float]:
        """1 − β_γ(n) for each length."""
        return [1 - decay(gamma, n) for gamma in self.gammas]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the averages. Snapshots of the resumed run that are in another folder are linked into this one."""
        super().on_train_start(trainer, pl_module)
        self.folder = Path(trainer.default_root_dir) / "checkpoints"
        before = self.folder if trainer.ckpt_path is None else Path(trainer.ckpt_path).parent
        if trainer.is_global_zero and before.resolve() != self.folder.resolve():
            for step, source in snapshots(before).items():
                if step <= self.step:
                    link(source, snapshot(self.folder, step))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Update the averages. The k-th snapshot is written after step ⌈k · total/snapshots⌉."""
        before, total = self.step, pl_module.clock.total
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        due = self.step * self.snapshots // total > before * self.snapshots // total
        if due and self.updates and trainer.is_global_zero:
            found = {"averages": self.named(), "updates": self.updates}
            storage.save(found, snapshot(self.folder, self.step))

    def named(self) -> dict[str, dict[str, Tensor]]:
        """σ_rel -> name in the module -> average."""
        pairs = zip(self.lengths, self.averages, strict=True)
        return {repr(length): dict(zip(self.names, averages, strict=True)) for length, averages in pairs}

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Save what EMA saves, and remove snapshots of later steps, left from before the run was resumed."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if trainer.is_global_zero:
            for step, file in snapshots(self.folder).items():
                if step > self.step:
                    file.unlink()

    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self.step, "updates": self.updates, "averages": self.named()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.saved = [state_dict["averages"][repr(length)] for length in self.lengths]


class OptimizersAverage(EMA):
    """The average x that a schedule-free optimizer keeps (Defazio et al. 2024, "The Road Less Scheduled", algorithm 1).

    After step t, with weights y that are trained and z that are never evaluated:
        z_t = z_{t−1} − γ d_t;  x_t = (1 − c_t) x_{t−1} + c_t z_t;  y_t = (1 − β) z_t + β x_t
    where d_t is AdamW's direction at y_{t−1}, and c_t = γ²/Σγ². The optimizer holds z, the module y. The optimizer's
    `eval` turns y into x, and `train` turns x into y, both with rounding, so the exact bits of y are restored
    afterwards. A checkpoint's `state_dict` holds x, its `current_model_state` y.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        (self.optimizer,) = trainer.optimizers
        self.optimizer.train()  # type: ignore[attr-defined]

    @torch.no_grad()
    def average_weights(self) -> None:
        trained = [weight.clone() for weight in self.weights]
        self.optimizer.eval()  # type: ignore[attr-defined]
        torch._foreach_copy_(self.averages[0], self.weights)
        self.optimizer.train()  # type: ignore[attr-defined]
        torch._foreach_copy_(self.weights, trained)


def average_for(optimizer: Any, chosen: Any) -> Any:
    """The average of the weights: the optimizer's own, if it keeps one, otherwise the chosen one, which may be None.

    A schedule-free optimizer has methods `train` and `eval`. Raises UserError for an average other than `EMA` beside.
    """
    made = getattr(optimizer, "func", optimizer)
    if not (hasattr(made, "train") and hasattr(made, "eval")):
        return chosen
    if chosen is not None and type(chosen) is not EMA:
        raise UserError(f"ema: the optimizer averages the weights itself, instead of {type(chosen).__name__}: ema=none")
    return OptimizersAverage()


def average_of(trainer: pl.Trainer) -> EMA | None:
    """The run's moving average, or None."""
    return next((c for c in trainer.callbacks if isinstance(c, EMA)), None)  # type: ignore[attr-defined]
