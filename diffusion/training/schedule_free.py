"""Schedule-free optimizers, which average the weights themselves; the run uses their average as its own."""

from typing import Any

import lightning.pytorch as pl
import torch

from diffusion.errors import UserError
from diffusion.training.ema import EMA


class OptimizersAverage(EMA):
    """The average x that a schedule-free optimizer keeps (Defazio et al. 2024, "The Road Less Scheduled", algorithm 1).

    After step t, with weights y that are trained and z that are never evaluated:
        z_t = z_{t−1} − γ d_t;  x_t = (1 − c_t) x_{t−1} + c_t z_t;  y_t = (1 − β) z_t + β x_t
    where d_t is AdamW's direction at y_{t−1}, and c_t = γ²/Σγ². The optimizer holds z, the module y. The optimizer's
    `eval` turns y into x, and `train` turns x into y, both with rounding, so the exact bits of y are restored
    afterwards. A checkpoint's `state_dict` holds x, its `current_model_state` y.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect the tensors, which are on their device now, and the optimizer."""
        super().on_train_start(trainer, pl_module)
        (self.optimizer,) = trainer.optimizers
        self.optimizer.train()  # type: ignore[attr-defined]

    @torch.no_grad()
    def average_weights(self) -> None:
        """Update x."""
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
    if not all(callable(getattr(made, method, None)) for method in ("train", "eval")):
        return chosen
    if chosen is not None and type(chosen) is not EMA:
        raise UserError(
            f"ema: {type(chosen).__name__} is not supported with an optimizer that averages the weights itself; choose "
            "ema=none, or another optimizer"
        )
    return OptimizersAverage()
