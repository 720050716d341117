"""Signals that end a run: its state is saved at the next completed optimizer step, then it exits with 128 + the number.

SIGTERM (143), SIGINT, which is Ctrl-C (130), SIGHUP, when the terminal is closed (129), SIGXCPU, when a limit of CPU
time is reached (152), SIGALRM, when `trainer.max_time` is over (142), and SIGUSR1 (138), on which a job of SLURM is
also queued again (`#SBATCH --signal=USR1@120`, see `diffusion.runs.slurm`). A handler only takes note; several
processes agree after each step, so that all of them stop at the same one. A validation, or the drawing of samples, is
broken off, and the resumed run does it again. (The last validation is finished first: after it, nothing is left to
resume.) Where nothing can be lost, before and after training, the run ends at once, as it does before torch is imported
(`diffusion.runs.early_signals`).
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from diffusion.errors import Interrupted
from diffusion.runs import early_signals
from diffusion.runs.early_signals import CAUGHT
from diffusion.training import loops
from diffusion.training.clock import Clock
from diffusion.training.ema import average_of
from diffusion.training.reading import Reading

PATIENCE = 3  # the third Ctrl-C ends the process at once; checkpoint files stay whole even then


class State:
    """What the handlers of this process have noted."""

    received: int | None = None  # the first signal
    deferring = False  # during training; otherwise a signal raises Interrupted at once
    count = 0
    process = 0  # which process the signals are for: workers of data loaders inherit the handlers


def handle(number: int, frame: FrameType | None) -> None:
    """Note the first signal; the following ones of a burst change nothing."""
    State.count += 1
    if os.getpid() != State.process:  # a loader's worker serves until it is terminated a second time
        if number == signal.SIGTERM and State.count > 1:
            os._exit(128 + number)
        return
    if State.received is None:
        State.received, State.count = number, 1
        if not State.deferring:
            early_signals.say(number, "ending at once")
            raise Interrupted(number)
        early_signals.say(number, "saving at the next completed step")
    elif number == signal.SIGINT and State.count >= PATIENCE:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def catching() -> Iterator[None]:
    """Within: signals are noted. A signal that the parent process ignores, as nohup does, stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    State.received, State.deferring = early_signals.State.received, False
    State.count, State.process = 0, os.getpid()
    before = {number: signal.getsignal(number) for number in CAUGHT if signal.getsignal(number) != signal.SIG_IGN}
    install(before)
    try:
        yield
    except Interrupted as stop:  # the process ends, and further signals of the burst must not cut that short
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            early_signals.queue_again(stop.number)
        raise
    except BaseException:
        restore(before)
        raise
    restore(before)


def install(numbers: Iterable[int]) -> None:
    """Handle these signals here."""
    for number in numbers:
        signal.signal(number, handle)


def restore(before: dict[int, Any]) -> None:
    """Put the earlier handlers back."""
    State.deferring = False
    for number, handler in before.items():
        signal.signal(number, handler)


def poll(*_: Any) -> None:
    """Raise Interrupted if this process has received a signal; for work that can be repeated, such as sampling."""
    if State.received is not None:
        raise Interrupted(State.received)


def agreed(trainer: pl.Trainer) -> int:
    """The signal that any of the run's processes has received, or 0. All of them must call this."""
    return int(ask_all(trainer).read()[0]) if trainer.world_size > 1 else State.received or 0


def stop_all(trainer: pl.Trainer) -> None:
    """Raise Interrupted, on all processes with the same signal, if any of them has received one."""
    if received := agreed(trainer):
        raise Interrupted(received)


def ask_all(trainer: pl.Trainer) -> Reading:
    """The signal, or 0, that any of several processes has received, on its way to the CPU.

    (Lightning's own reduction begins with a barrier, for which a GPU would have to finish its step.)
    """
    received = torch.full((1,), State.received or 0, device=trainer.strategy.root_device)
    dist.all_reduce(received, dist.ReduceOp.MAX)
    return Reading(received)


def stop_in_validation(trainer: pl.Trainer, clock: Clock) -> None:
    """Break off a validation, unless it is the last one.

    This is called within the validation step, because Lightning then knows that it must be repeated.
    """
    if trainer.state.fn == "fit" and trainer.global_step < clock.total:
        stop_all(trainer)


class DeferSignals(Callback):
    """The first of all callbacks: from its start on, signals wait for the end of a step."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the handlers that Lightning has just installed, which would stop within a step."""
        if State.process == os.getpid() and threading.current_thread() is threading.main_thread():
            State.deferring = True
            install(number for number in CAUGHT if signal.getsignal(number) != signal.SIG_IGN)


class TimeLimit(Callback):
    """Stops training, as SIGALRM does, after so long in this process: where that is agreed on, saved and resumed from.

    (Lightning's own Timer ends a run as if it were complete, and a resumed one at once.)

    Args:
        time: as DD:HH:MM:SS.
    """

    def __init__(self, time: str):
        days, hours, minutes, seconds = map(int, time.split(":"))
        self.seconds = ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the process's alarm clock, whose signal is handled from now on."""
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing is left to stop."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """It is stopped already."""
        signal.setitimer(signal.ITIMER_REAL, 0)


class StopOnSignal(Callback):
    """Ends training where its state is whole, and saves it.

    It stands after the callbacks that change the state after a step (the average), and after those whose work between
    steps is broken off (samples): these leave it to this one to end the run.
    """

    def __init__(self, clock: Clock, checkpoints: Any):
        self.clock, self.checkpoints = clock, checkpoints
        self.stopping: Interrupted | None = None
        self.asked: Reading | None = None
        self.validating = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a completed step. Where a validation follows, it stops and saves by itself."""
        if not self.clock.completes_step(batch_idx) or self.clock.validates(trainer.global_step):
            return
        try:
            self.stop(trainer)
        except Interrupted as stop:
            self.checkpoints.save(trainer)
            self.stopping = stop

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leave, now that the step is also logged; or while nothing has happened since the last checkpoint."""
        if self.stopping is not None:
            raise self.stopping
        if self.checkpoints.saved_at == trainer.global_step and self.clock.completes_step(batch_idx - 1):
            stop_all(trainer)

    def stop(self, trainer: pl.Trainer) -> None:
        """As `stop_all`; several GPUs learn of a signal one step later, so that no step waits for its own end."""
        if trainer.world_size == 1 or trainer.strategy.root_device.type == "cpu":
            stop_all(trainer)
            return
        asked, self.asked = self.asked, ask_all(trainer)
        if asked is not None and (received := int(asked.read()[0])):
            raise Interrupted(received)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A checkpoint that is saved from here on is one of a validation that was broken off."""
        self.validating = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The validation is complete."""
        self.validating = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A validation that was broken off is repeated."""
        if self.validating:
            loops.repeat_validation(checkpoint)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last state is saved; nothing can be lost any more."""
        State.deferring = False
        stop_all(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save what was broken off, with raw and averaged weights in their own places."""
        average = average_of(trainer)
        if average is not None and average.swapped:
            average.swap(pl_module)
        if isinstance(exception, Interrupted) and State.deferring and self.checkpoints.saved_at != trainer.global_step:
            self.checkpoints.save(trainer)
