"""Optimizers whose first step ends the job, each in a different way; with $CURED they are plain SGD."""

import os
import signal
from collections.abc import Callable
from typing import Any

import torch


def _dying(death: Callable[[], Any]) -> Callable[..., torch.optim.Optimizer]:
    class Dying(torch.optim.SGD):
        def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
            loss = super().step(closure)
            if "CURED" not in os.environ:
                death()
            return loss

    return lambda parameters, **_: Dying(parameters, lr=0.01)


def _raise() -> None:
    raise ValueError("an ordinary error")


good = other = _dying(lambda: None)
error = _dying(_raise)
kill = _dying(lambda: os.kill(os.getpid(), signal.SIGKILL))
