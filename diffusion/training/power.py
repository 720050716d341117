"""Power-function averages of the weights at several lengths, from which any other length can be computed later."""

from pathlib import Path
from typing import Annotated, Any

import lightning.pytorch as pl
from annotated_types import Ge, Gt, Le, MinLen
from torch import Tensor

from diffusion.checkpoint import averages as files
from diffusion.checkpoint import storage
from diffusion.errors import UserError
from diffusion.files import link
from diffusion.process.averaging import decay, gamma_of
from diffusion.training.clock import Clock
from diffusion.training.ema import EMA


class PowerEMA(EMA):
    """w̄ ← w̄ + (1 − β_γ(n))(w − w̄) after optimizer step n, with β_γ(n) = (1 − 1/n)^(γ+1), for several γ in parallel.

    An average of length σ_rel always covers the same fraction of the training so far, and contains nothing of the
    initial weights (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", section 3;
    see `diffusion.process.averaging`). Validation and samples use the first length. For other lengths, `weights=0.08`
    in diffusion.sample, evaluate and study combines the snapshots in checkpoints/averages/.

    A snapshot contains all averages, in float32 or better, so it is as large as one model per length.

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
        if len(set(self.lengths)) < len(self.lengths):
            raise UserError(f"ema.lengths={self.lengths}: a length is repeated; list each one once")
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
            for step, source in files.snapshots(before).items():
                if step <= self.step:
                    link(source, files.snapshot(self.folder, step))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Update the averages. The k-th snapshot is written after step ⌈k · total/snapshots⌉."""
        assert isinstance(pl_module.clock, Clock)
        before, total = self.step, pl_module.clock.total
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        due = self.step * self.snapshots // total > before * self.snapshots // total
        if due and self.updates and trainer.is_global_zero:
            found = {"averages": self.named(), "updates": self.updates}
            storage.save(found, files.snapshot(self.folder, self.step))

    def named(self) -> dict[str, dict[str, Tensor]]:
        """σ_rel -> name in the module -> average."""
        pairs = zip(self.lengths, self.averages, strict=True)
        return {repr(length): dict(zip(self.names, averages, strict=True)) for length, averages in pairs}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save what EMA saves, and remove snapshots of later steps, left from before the run was resumed."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if trainer.is_global_zero:
            for step, file in files.snapshots(self.folder).items():
                if step > self.step:
                    file.unlink()

    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self.step, "updates": self.updates, "averages": self.named()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.saved = [state_dict["averages"][repr(length)] for length in self.lengths]
