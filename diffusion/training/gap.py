"""The signal that over-fitting has started."""

import logging
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from diffusion.console import console

log = logging.getLogger(__name__)

SURE = 3.0  # standard errors


class OverfittingNotice(Callback):
    """One line, once in a run, at the first validation where the gap is more than `SURE` standard errors above zero.

    Where validation images are easier than training images, as other photographs may be, the gap starts below zero and
    the line comes late; the curve of the gap says the rest.
    """

    said = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the averaged weights first, then at the raw ones."""
        if self.said or trainer.sanity_checking:
            return
        for suffix, weights in (("", ""), ("_raw", " of the raw weights")):
            gap, error = (float(trainer.logged_metrics.get(f"gap/{x}{suffix}", float("nan"))) for x in ("mse", "se"))
            if gap > SURE * error:
                self.said = True
                if trainer.is_global_zero:
                    log.warning(
                        "step %d: over-fitting has started: the error%s on held-out images is %.5f above that on "
                        "training images, %.1f times its standard error",
                        trainer.global_step, weights, gap, gap / error if error else float("inf"),
                    )  # fmt: skip
                return

    def state_dict(self) -> dict[str, Any]:
        """A resumed run says it no second time."""
        return {"said": self.said}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
        self.said = bool(state_dict["said"])


def say_gap(logged: Mapping[str, Any]) -> None:
    """One line at the end: the last errors on held-out and on training images, and their gap with its interval."""
    if "gap/se" not in logged:
        return
    val, fit, gap, error = (float(logged[name]) for name in ("val/mse", "fit/mse", "gap/mse", "gap/se"))
    console.print(
        f"denoising MSE: {val:.5f} on validation images · {fit:.5f} on training images · "
        f"gap {gap:+.5f} [{gap - 1.96 * error:+.5f}, {gap + 1.96 * error:+.5f}]",
        markup=False,
    )
