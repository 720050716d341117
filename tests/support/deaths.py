"""Optimizers whose first step ends the job, each in a different way; with $CURED they are plain SGD."""

import os
import signal
import sys
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


def _raise(error: BaseException) -> None:
    raise error


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


good = other = _dying(lambda: None)
error = _dying(lambda: _raise(ValueError("an ordinary error")))
memory = _dying(lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")))
leave = _dying(lambda: sys.exit(7))
vanish = _dying(lambda: os._exit(9))
kill = _dying(_kill)


def nan(parameters: Any, **_: Any) -> torch.optim.Optimizer:
    """An optimizer whose first step makes every weight NaN."""
    return torch.optim.SGD(parameters, lr=0.01 if "CURED" in os.environ else float("nan"))
