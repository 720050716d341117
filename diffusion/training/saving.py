"""When a run saves its state: after validations, at an interval of steps, and when a signal ends it.

The signals are SIGTERM (exit status 143), SIGINT from Ctrl-C (130), SIGHUP when the terminal is closed (129), SIGXCPU
when a CPU time limit is reached (152), and SIGUSR1 (138), which also requeues a SLURM job
(`#SBATCH --signal=USR1@120`, see docs/clusters.md). Handlers only record the signal; several
processes agree after each step, so that all stop at the same one. A signal interrupts validation and sampling, and the
resumed run repeats them. (The last validation is finished first, because nothing is left to resume after it.) Before
and after training, when nothing can be lost, the run ends immediately.
"""

import contextlib
import math
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint

from diffusion.base.console import console
from diffusion.base.files import link
from diffusion.checkpoint import storage
from diffusion.errors import Interrupted, UserError, command_line
from diffusion.runs.again import resumed
from diffusion.runs.folder import Run
from diffusion.runs.processes import STOPS
from diffusion.training.parts import Parts

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
def catching_signals() -> Iterator[None]:
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


class Checkpoints(Checkpoint):
    """Saves step-00001234.ckpt and keeps the last `keep`; last.ckpt is the newest, best.ckpt has the lowest val/mse.

    One is saved after every validation, including the last one, every `every_n_steps` optimizer steps if that is set,
    and after a signal, which ends training between two steps or within a validation. It is the last callback.
    """

    def __init__(self, run: Parts):
        self.folder, self.clock, self.resumed = run.folder / "checkpoints", run.clock, run.resumed
        self.keep, self.every = run.settings.checkpoint.keep, run.settings.checkpoint.every_n_steps
        self.best = math.inf  # the lowest val/mse of the checkpoints in this folder
        self.saved_at = 0  # the step of the newest checkpoint

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restore the lowest error, unless best.ckpt is in another folder or of steps that are made again."""
        assert self.resumed is not None
        with contextlib.suppress(UserError):
            best = storage.load(self.folder / "best.ckpt", mapped=True)
            self.best = state_dict["best"] if best["global_step"] <= self.resumed.step else self.best

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on, signals wait for the end of a step."""
        State.deferring = True

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Stop after a complete step, whose values are logged by now."""
        if self.clock.completes_step(batch_idx - 1):
            stop_all(trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step < self.clock.total:
            stop_all(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save every `every_n_steps` steps, unless a validation follows, which also saves."""
        step = trainer.global_step
        due = self.every is not None and step % self.every == 0 and not self.clock.validates(step)
        if due and self.clock.completes_step(batch_idx):
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        before, self.best = self.best, min(self.best, float(trainer.callback_metrics["val/mse"]))
        self.save(trainer, best=self.best < before)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last state is saved: nothing is left to defer signals for."""
        State.deferring = False
        stop_all(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Interrupted) and State.deferring and self.saved_at != trainer.global_step:
            self.save(trainer)

    def save(self, trainer: pl.Trainer, best: bool = False) -> None:
        """Save the current state, also as best.ckpt if `best`, and remove old checkpoints."""
        path = storage.numbered(self.folder, trainer.global_step)
        try:
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                for name in ("last", "best") if best else ("last",):
                    link(path, self.folder / f"{name}.ckpt")
                self.prune(trainer.global_step)
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror or error}; earlier checkpoints are intact; fix this, and resume "
                f"with {command_line(resumed(Run(self.folder.parent)))}"
            ) from error
        self.saved_at = trainer.global_step

    def prune(self, step: int) -> None:
        """Remove the oldest beyond `keep`, and those after `step`, left from before the run was resumed."""
        files = [file for file in storage.numbered_files(self.folder) if file.is_file()]
        later = [file for file in files if storage.step_in_name(file) > step]
        for old in later + files[len(later) + self.keep :]:
            old.unlink()
        if later:
            console.print(f"removed {', '.join(file.name for file in later)}: the run was resumed from an earlier step")
