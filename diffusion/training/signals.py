"""Signals that end a run: it saves its state after the current optimizer step and exits with 128 + the number.

The signals are SIGTERM (143), SIGINT from Ctrl-C (130), SIGHUP when the terminal is closed (129), SIGXCPU when a CPU
time limit is reached (152), SIGALRM when `trainer.max_time` is over (142), and SIGUSR1 (138), which also requeues a
SLURM job (`#SBATCH --signal=USR1@120`, see docs/clusters.md). Handlers only record the signal; several processes
agree after each step, so that all stop at the same one. A signal interrupts validation and sampling, and the resumed
run repeats them. (The last validation is finished first, because nothing is left to resume after it.) Before and after
training, when nothing can be lost, the run ends immediately.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from diffusion.errors import Interrupted
from diffusion.launch import STOPS
from diffusion.training.prepared import Run
from diffusion.training.saving import Checkpoints

PATIENCE = 3  # the third Ctrl-C ends the process immediately; checkpoint files stay intact even then


class State:
    """Signals recorded by the handlers of this process."""

    received: int | None = None  # the first signal
    deferring = False  # True during training; otherwise a signal raises Interrupted immediately
    count = 0
    process = 0  # the process that the signals are for: workers of data loaders inherit the handlers


def handle(number: int, frame: FrameType | None) -> None:
    """Record the first signal; later signals of a burst change nothing, except a third Ctrl-C."""
    if os.getpid() != State.process:
        return
    State.count += 1
    if State.received is None:
        State.received = number
        if not State.deferring:
            raise Interrupted(number)
        with contextlib.suppress(OSError):  # safe in a handler, and if the terminal is gone
            os.write(2, f"\n{signal.Signals(number).name}: saving at the next step\n".encode())
    elif number == signal.SIGINT and State.count >= PATIENCE:
        os._exit(128 + number)


@contextlib.contextmanager
def catching() -> Iterator[None]:
    """Context in which signals are recorded; what is ignored, as under nohup, stays ignored.

    After a signal, the process ends, and further ones must not interrupt that.
    """
    State.received, State.deferring, State.count, State.process = None, False, 0, os.getpid()
    before = {number: handler for number in STOPS if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    except Interrupted as stop:  # maybe by a signal to another process
        State.received = stop.number
        raise
    finally:
        State.deferring = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        if State.received is None:
            for number, handler in before.items():
                signal.signal(number, handler)


def poll(*_: Any) -> None:
    """Raise Interrupted if this process has received a signal; for work that can be repeated, such as sampling."""
    if State.received is not None:
        raise Interrupted(State.received)


def stop_all(trainer: pl.Trainer) -> None:
    """Raise Interrupted, on all processes of the run with the same signal, if any has received one."""
    received = State.received or 0
    if trainer.world_size > 1:
        # Not Lightning's own reduction, which begins with a barrier.
        numbers = torch.full((1,), received, device=trainer.strategy.root_device)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        received = int(numbers)
    if received:
        raise Interrupted(received)


class StopOnSignal(Callback):
    """Ends training between two steps or within a validation, and saves the state. It is the last callback.

    It also starts the timer of `trainer.max_time`, which sends SIGALRM to this process. (Lightning's own Timer ends a
    run as if it were complete, and a resumed one immediately.)
    """

    def __init__(self, run: Run, checkpoints: Checkpoints):
        days, hours, minutes, seconds = map(int, (run.settings.trainer.max_time or "0:0:0:0").split(":"))
        self.seconds = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        self.clock, self.checkpoints = run.clock, checkpoints

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on, signals wait for the end of a step."""
        State.deferring = True
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Stop after a complete step, whose values are logged by now."""
        if self.clock.completes_step(batch_idx - 1):
            stop_all(trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Interrupt any validation but the last one."""
        if trainer.global_step < self.clock.total:
            stop_all(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last state is saved: nothing is left to defer signals for, or to interrupt by a timer."""
        State.deferring = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        stop_all(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save the state, unless it is saved already."""
        if isinstance(exception, Interrupted) and State.deferring and self.checkpoints.saved_at != trainer.global_step:
            self.checkpoints.save(trainer)
