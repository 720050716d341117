"""An optimizer whose third step tells its own process to end, by SIGUSR1, the first time that a job of SLURM runs."""

import os
import signal
from collections.abc import Callable
from typing import Any

import torch


class Told(torch.optim.SGD):
    steps = 0

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = super().step(closure)
        self.steps += 1
        if self.steps == 3 and "SLURM_RESTART_COUNT" not in os.environ:
            os.kill(os.getpid(), signal.SIGUSR1)
        return loss


def told(parameters: Any, **_: Any) -> torch.optim.Optimizer:
    return Told(parameters, lr=0.01)


def told_late(parameters: Any, **_: Any) -> torch.optim.Optimizer:
    """Only the second of two processes."""
    return (Told if os.environ.get("LOCAL_RANK") == "1" else torch.optim.SGD)(parameters, lr=0.01)
