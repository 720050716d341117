"""Signals that end a run: saved at the next completed optimizer step, then exit with 128 + the signal's number.

SIGTERM (143), SIGINT, which is Ctrl-C (130), and SIGUSR1 (138), on which a job under SLURM is queued again as well
(`#SBATCH --signal=USR1@120`, see `diffusion.runs.slurm`). A handler only takes note; several processes agree after each
step, so that all of them stop at the same one. A validation, or the drawing of samples, is broken off: the
resumed run does it again. Where nothing is lost, before and after training, the run ends at once; so does it before
torch is imported (`diffusion.runs.early_signals`).
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from diffusion.config.quoting import going_on
from diffusion.console import console
from diffusion.errors import Interrupted
from diffusion.runs import early_signals as early
from diffusion.runs.early_signals import CAUGHT
from diffusion.training.ema import average_of
from diffusion.training.guard import Reading
from diffusion.training.saving import Checkpoints, step_is_complete, validation_follows

PATIENCE = 3  # the third Ctrl-C ends the process as it is; checkpoint files stay whole even then


class State:
    """What the handlers of this process have noted."""

    received: int | None = None  # the first signal
    deferring = False  # within training; otherwise a signal raises Interrupted on the spot
    count = 0
    process = 0  # whose signals are meant: workers of data loaders inherit the handlers


def handle(number: int, frame: FrameType | None) -> None:
    """Note the first signal; the next ones of a burst change nothing."""
    State.count += 1
    if os.getpid() != State.process:  # a loader's worker serves until it is told to end a second time
        if number == signal.SIGTERM and State.count > 1:
            os._exit(128 + number)
        return
    if State.received is None:
        State.received, State.count = number, 1
        if not State.deferring:
            early.say(number, "ending at once")
            raise Interrupted(number)
        early.say(number, "saving at the next completed step")
    elif number == signal.SIGINT and State.count >= PATIENCE:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def catching() -> Iterator[None]:
    """Within: signals are noted. A signal that the parent process had ignored, as nohup does, stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    State.received, State.deferring, State.count, State.process = early.State.received, False, 0, os.getpid()
    before = {number: signal.getsignal(number) for number in CAUGHT if signal.getsignal(number) != signal.SIG_IGN}
    install(before)
    try:
        yield
    except Interrupted as stop:  # the process ends, and further signals of the burst must not cut that short
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            early.queue_again(stop.number)
        raise
    except BaseException:
        restore(before)
        raise
    restore(before)


def install(numbers: Any) -> None:
    """Handle these signals here."""
    for number in numbers:
        signal.signal(number, handle)


def ours_alone(trainer: pl.Trainer) -> None:
    """Keep Lightning from putting its own handlers in, which stop within a step."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def restore(before: dict[int, Any]) -> None:
    """Put the earlier handlers back."""
    State.deferring = False
    for number, handler in before.items():
        signal.signal(number, handler)


def poll(*_: Any) -> None:
    """Break off work within `together`, if this process was told to end."""
    if State.received is not None:
        raise Interrupted(State.received)


@contextlib.contextmanager
def together(trainer: pl.Trainer) -> Iterator[None]:
    """Within: work at an epoch's end that can be done again, such as drawing samples, which `poll` may break off.

    Behind it all processes stop if any was told to, also those that had nothing to do.
    """
    with contextlib.suppress(Interrupted):
        yield
    stop(trainer)


def stop(trainer: pl.Trainer) -> None:
    """Raise Interrupted, on all processes with the same signal, if any of them was told to end."""
    received = State.received or 0
    if trainer.world_size > 1:
        received = int(ask(trainer).read()[0])
    if received:
        raise Interrupted(received)


def ask(trainer: pl.Trainer) -> Reading:
    """The signal, or 0, that any of several processes has received, on its way here.

    (Lightning's own reduction begins with a barrier, for which a GPU would finish its step first.)
    """
    signals = torch.full((1,), State.received or 0, device=trainer.strategy.root_device)
    dist.all_reduce(signals, dist.ReduceOp.MAX)
    return Reading(signals)


def say_how_to_go_on(stop: BaseException, folder: Path) -> None:
    """Where the run stopped."""
    console.print(f"stopped by {stop}; to go on: {going_on(folder)}")


class Interruptible(Callback):
    """Ends training where its state is whole, and saves it.

    Stands behind what changes the state after a step (the average), and before what takes long at an epoch's end.
    """

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints
        self.point: dict[str, Any] | None = None  # Lightning's loops as they are resumed; None: as they are
        self.stopped = False
        self.asked: Reading | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on signals wait."""
        State.deferring = State.process == os.getpid() and threading.current_thread() is threading.main_thread()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop, unless a validation or the epoch's end follows: from here they would be left out of the resumed run."""
        self.point = None
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if step_is_complete(trainer) and not last and not validation_follows(trainer):
            try:
                self.stop(trainer)
            except Interrupted:
                trainer._logger_connector.update_train_step_metrics()  # it would have been next
                raise

    def stop(self, trainer: pl.Trainer) -> None:
        """As `stop`; several GPUs hear of a signal a step later, so that no step waits for its own end."""
        if trainer.world_size == 1 or trainer.strategy.root_device.type == "cpu":
            stop(trainer)
            return
        asked, self.asked = self.asked, ask(trainer)
        if asked is not None and (received := int(asked.read()[0])):
            raise Interrupted(received)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop; the resumed run validates from the first batch. A validation after the last step is ended first."""
        if trainer.state.fn != "fit":
            return
        if batch_idx == dataloader_idx == 0:
            self.point = trainer.fit_loop.state_dict()
            for count in ("total", "current"):  # as Lightning marks an evaluation that was broken off
                self.point["epoch_loop.val_loop.batch_progress"][count]["started"] += 1
        if not 0 < trainer.max_steps <= trainer.global_step:
            stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop; the resumed run does again what comes at the epoch's end."""
        self.point = trainer.fit_loop.state_dict()
        for count in ("total", "current"):
            self.point["epoch_progress"][count]["processed"] -= 1
        if validation_follows(trainer):  # then Lightning counts the last batch again
            self.point["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
        stop(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last state is saved; nothing is lost any more."""
        State.deferring = False
        stop(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save, with raw and averaged weights in their own places."""
        if not isinstance(exception, Interrupted) or not State.deferring:
            return
        self.stopped = True
        average = average_of(trainer)
        if average is not None and average.swapped:
            average.swap(pl_module)
        if self.checkpoints.saved_at != trainer.global_step:
            self.checkpoints.save(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Where a run is broken off, its loops are those of the point to which it goes back."""
        if self.stopped and self.point is not None:
            checkpoint["loops"]["fit_loop"] = self.point
