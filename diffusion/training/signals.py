"""Signals that end a run: it saves its state at the next completed optimizer step and exits with 128 + the number.

The signals are SIGTERM (143), SIGINT from Ctrl-C (130), SIGHUP when the terminal is closed (129), SIGXCPU when a CPU
time limit is reached (152), SIGALRM when `trainer.max_time` is over (142), and SIGUSR1 (138), which also requeues a
SLURM job (`#SBATCH --signal=USR1@120`, see `diffusion.runs.slurm`). Handlers only record the signal; several processes
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
from diffusion.training import loops
from diffusion.training.clock import Clock
from diffusion.training.ema import average_of
from diffusion.training.reading import Reading

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
    """Context in which signals are recorded. After one, the process ends, and further ones must not interrupt that."""
    State.received, State.deferring, State.count, State.process = None, False, 0, os.getpid()
    before = {number: signal.getsignal(number) for number in STOPS}
    install()
    try:
        yield
    except Interrupted as stop:  # maybe by a signal to another process
        State.received = stop.number
        raise
    finally:
        State.deferring = False
        if State.received is None:
            State.process = 0
            for number, handler in before.items():
                signal.signal(number, handler)


def install() -> None:
    """Install the handlers, again if Lightning has replaced some. What is ignored, as under nohup, stays ignored."""
    if State.process == os.getpid():
        for number in STOPS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handle)


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
    """Start to read the signal that any of several processes has received, or 0.

    (Lightning's own reduction begins with a barrier, which makes the process wait for the GPU to finish its step.)
    """
    received = torch.full((1,), State.received or 0, device=trainer.strategy.root_device)
    dist.all_reduce(received, dist.ReduceOp.MAX)
    return Reading(received)


def stop_in_validation(trainer: pl.Trainer, clock: Clock) -> None:
    """Interrupt a validation after a signal, unless it is the last validation.

    This is called within the validation step, because Lightning then knows that the validation must be repeated.
    """
    if trainer.global_step < clock.total:
        stop_all(trainer)


class DeferSignals(Callback):
    """The first callback: from the start of training, signals wait for the end of a step.

    Args:
        time: `trainer.max_time` as DD:HH:MM:SS, after which this process receives SIGALRM. (Lightning's own Timer ends
            a run as if it were complete, and a resumed one immediately.)
    """

    def __init__(self, time: str | None):
        days, hours, minutes, seconds = map(int, (time or "0:0:0:0").split(":"))
        self.seconds = ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the handlers that Lightning has just installed, which would stop within a step; start the timer."""
        install()
        State.deferring = State.process == os.getpid()
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the timer: nothing is left to interrupt."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop the timer: the run has stopped already."""
        signal.setitimer(signal.ITIMER_REAL, 0)


class StopOnSignal(Callback):
    """Ends training at a point where its state is consistent, and saves it.

    It comes after the callbacks that change the state after a step (the average), and after those with interruptible
    work between steps (samples), which leave ending the run to this callback.
    """

    def __init__(self, clock: Clock, checkpoints: Any):
        self.clock, self.checkpoints = clock, checkpoints
        self.stopping: Interrupted | None = None
        self.asked: Reading | None = None
        self.validating = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a completed step, unless a validation follows, which stops and saves by itself."""
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
        """Stop once the step is also logged, or if nothing has happened since the last checkpoint."""
        if self.stopping is not None:
            raise self.stopping
        if self.checkpoints.saved_at == trainer.global_step and self.clock.completes_step(batch_idx - 1):
            stop_all(trainer)

    def stop(self, trainer: pl.Trainer) -> None:
        """Like `stop_all`, but several GPUs see a signal one step later, to avoid a synchronization at every step."""
        if trainer.world_size == 1 or trainer.strategy.root_device.type == "cpu":
            stop_all(trainer)
            return
        asked, self.asked = self.asked, ask_all(trainer)
        if asked is not None and (received := int(asked.read()[0])):
            raise Interrupted(received)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checkpoints saved from here on are those of an interrupted validation."""
        self.validating = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The validation is complete."""
        self.validating = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make a resumed run repeat an interrupted validation, and no other."""
        if self.validating:
            loops.repeat_validation(checkpoint)
        else:
            loops.complete_validations(checkpoint)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last state is saved, so signals no longer have to wait."""
        State.deferring = False
        stop_all(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save the interrupted state, with raw and averaged weights in their own places."""
        average = average_of(trainer)
        if average is not None and average.swapped:
            average.swap(pl_module)
        if isinstance(exception, Interrupted) and State.deferring and self.checkpoints.saved_at != trainer.global_step:
            self.checkpoints.save(trainer)
