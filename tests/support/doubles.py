"""Classes for the configs of tests: optimizers and samplers that signal, fail or end their own process."""

import os
import signal
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger

from diffusion.errors import UserError
from diffusion.process.sampler import DDIM


class Signalling(torch.optim.SGD):
    """Sends SIGUSR1 to its own process in the third step, if a SLURM job runs for the first time."""

    steps = 0

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = super().step(closure)
        self.steps += 1
        if self.steps == 3 and "SLURM_RESTART_COUNT" not in os.environ:
            os.kill(os.getpid(), signal.SIGUSR1)
        return loss


def signalling(parameters: Any, **_: Any) -> torch.optim.Optimizer:
    return Signalling(parameters, lr=0.01)


def second_signalling(parameters: Any, **_: Any) -> torch.optim.Optimizer:
    """An optimizer that signals only the second of two processes."""
    return (Signalling if os.environ.get("LOCAL_RANK") == "1" else torch.optim.SGD)(parameters, lr=0.01)


class Dying(DDIM):
    """A sampler that kills its process when it draws several images, except on rank 0."""

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if len(args[1]) > 1 and os.environ.get("LOCAL_RANK", "0") != "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(*args, **kwargs)


class Failing(DDIM):
    """A sampler that raises an error, except on rank 0."""

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise UserError("nothing can be drawn here")
        return super().__call__(*args, **kwargs)


def _dying(death: Callable[[], Any]) -> Callable[..., torch.optim.Optimizer]:
    """An optimizer whose first step ends the job; with $CURED it is plain SGD."""

    class Dies(torch.optim.SGD):
        def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
            loss = super().step(closure)
            if "CURED" not in os.environ:
                death()
            return loss

    return lambda parameters, **_: Dies(parameters, lr=0.01)


def _raise() -> None:
    raise ValueError("an ordinary error")


def _tell() -> None:
    raise ValueError(f"GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}, ONLY_HERE={os.environ.get('ONLY_HERE')}")


good = other = _dying(lambda: None)
error = _dying(_raise)
telling = _dying(_tell)
kill = _dying(lambda: os.kill(os.getpid(), signal.SIGKILL))


class Lost(CSVLogger):
    """A logger whose server is lost in the third step."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if step == 2:
            raise ConnectionError("no answer from http://user:canary@server\nmore")
        super().log_metrics(metrics, step)
