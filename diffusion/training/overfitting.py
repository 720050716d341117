"""The notice that overfitting has started."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from diffusion.console import console
from diffusion.metric.gap import mean_and_error
from diffusion.training.module import Diffusion

log = logging.getLogger(__name__)

SURE = 3.0  # standard errors of a normal distribution; more with few images or photographs


class OverfittingNotice(Callback):
    """Logs one line, once per run, at the first validation where the gap has risen and is above zero.

    Both must be significant at the level of `SURE`. The gap must be above zero because, if held-out images are
    easier, a negative gap shrinks along with both errors. It must be above the lowest gap of all validations so far, in
    a paired comparison, because it is never zero where held-out images are harder. (A new network that predicts v or x0
    has such a gap: its eps follows x_t.) So the first validation never logs it, and where held-out images are easier
    the line comes late; the curve shows the rest.
    """

    def __init__(self) -> None:
        self.said = False
        self.lowest: dict[str, Tensor] = {}  # by weights: d_i (n,) of the validation with the lowest gap

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the averaged weights first, then the raw ones."""
        assert isinstance(pl_module, Diffusion)
        if self.said:
            return
        for weights, d in pl_module.differences.items():
            lowest = self.lowest.setdefault(weights, d)
            if len(lowest) != len(d) or d.mean() < lowest.mean():
                lowest = self.lowest[weights] = d
            gap, rise = (mean_and_error(x, pl_module.clusters) for x in (d, d - lowest))
            if gap.mean > gap.half(SURE) and rise.mean > rise.half(SURE):
                self.said = True
                if trainer.is_global_zero:
                    log.warning(
                        "step %d: over-fitting has started: the error%s on held-out images is %.5f above that on "
                        "training images, %.1f times its standard error; the lowest gap was %.5f",
                        trainer.global_step, " of the raw weights" if weights == "raw" else "",
                        gap.mean, gap.mean / gap.error, lowest.mean(),
                    )  # fmt: skip
                return

    def state_dict(self) -> dict[str, Any]:
        """A resumed run does not log the line again, and compares with the lowest gap of the whole run."""
        return {"said": self.said, "lowest": self.lowest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
        self.said, self.lowest = bool(state_dict["said"]), dict(state_dict["lowest"])


def print_gap(logged: Mapping[str, Any]) -> None:
    """Print the last errors on held-out and on training images, and their gap with its interval, after the run."""
    if "gap/half" not in logged:
        return
    val, fit, gap, half = (float(logged[name]) for name in ("val/mse", "fit/mse", "gap/mse", "gap/half"))
    interval = "" if math.isnan(half) else f" [{gap - half:+.5f}, {gap + half:+.5f}]"  # none for a single image
    console.print(
        f"denoising MSE: {val:.5f} on validation images · {fit:.5f} on training images · gap {gap:+.5f}{interval}",
        markup=False,
    )
