"""The framework's overhead per training step over a bare loop, with a network that costs nothing; time of each part.

    python bench/overhead.py [--batch 8 1024] [--steps 300]

The network has one parameter and images have one pixel, so a step is Python and almost no arithmetic. Steps of the run
alternate with steps of the bare loop (see `bench/loop.py`) in one process with one thread; the table shows the median
CPU time. The goal: at most 1 ms more than the bare loop, and the same at batch 1,024 as at batch 8.

The times of the parts come from a second run, which times the functions of each part without the calls to other parts.
Time outside all parts is Lightning's own. The bare loop also does the work of "loss" and "optimizer".
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from loop import Turns, bare_loop, run
from measuring import Free, MadeUp
from rich.table import Table

from diffusion.config.composition import composed, plain
from diffusion.config.schema import Train
from diffusion.config.validation import validated
from diffusion.console import console, quiet_libraries
from diffusion.data.batches import Split
from diffusion.data.order import TrainingBatches
from diffusion.runs import naming
from diffusion.training import ema, guard, loggers, module, periodic, progress, saving, signals, spent

HOOKS = ("on_train_batch_start", "on_before_optimizer_step", "on_before_backward", "on_after_backward")
HOOKS += ("on_before_zero_grad", "on_train_batch_end")
LIMIT = 1e-3  # seconds more than the bare loop
SKIPPED = 20  # first steps

PARTS: dict[str, list[tuple[type, tuple[str, ...]]]] = {
    "loader": [
        (Split, ("__getitem__",)),
        (MadeUp, ("transfer_batch_to_device", "on_after_batch_transfer")),
        (TrainingBatches, ("__iter__",)),
    ],
    "streams": [(module.Diffusion, ("streams", "on_train_batch_start"))],
    "loss": [(module.Diffusion, ("training_step",)), (Strategy, ("backward",))],
    "optimizer": [(torch.optim.AdamW, ("step", "zero_grad"))],
    "logging": [
        (module.Diffusion, ("log_step",)),
        (_LoggerConnector, ("on_batch_start", "on_batch_end", "update_train_step_metrics")),
        (LearningRateMonitor, HOOKS),
        (loggers.MetricsFile, ("log_metrics",)),
    ],
    "guard": [(guard.Guard, HOOKS)],
    "EMA": [(ema.EMA, HOOKS)],
    "other callbacks": [
        (each, HOOKS)
        for each in (
            progress.RunProgress, periodic.StopAfterLastStep, saving.Checkpoints, signals.StopOnSignal,
            signals.DeferSignals, spent.Mark, spent.MarkSteps,
        )
    ],
}  # fmt: skip


class Ledger:
    """The seconds of each part in a step, without the parts that it calls."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.now: dict[str, float] = defaultdict(float)
        self.open: list[float] = []  # for each open call, the seconds of the calls inside it
        self.began: float | None = None

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function to count its time toward the part."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            self.open.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.process_time() - began
                self.now[part] += taken - self.open.pop()
                if self.open:
                    self.open[-1] += taken

        return wrapped

    def iterated(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function that returns an iterator, to count the time of its items toward the part."""

        def wrapped(*args: Any) -> Any:
            items = iter(function(*args))
            take = self.timed(part, lambda: next(items, None))
            while (item := take()) is not None:
                yield item

        return wrapped

    def step(self) -> None:
        """Mark the start of a step."""
        now = time.process_time()
        if self.began is not None:
            self.now["whole"] = now - self.began
            self.steps.append(dict(self.now))
        self.began = now
        self.now.clear()

    def install(self) -> Callable[[], None]:
        """Time the functions of all parts until the returned function is called."""
        before = []
        for part, places in PARTS.items():
            for owner, names in places:
                for name in names:
                    function = getattr(owner, name)
                    if function is getattr(Callback, name, None):
                        continue  # the callback does not override this hook
                    before.append((owner, name, owner.__dict__.get(name)))
                    wrap = self.iterated if name == "__iter__" else self.timed
                    setattr(owner, name, wrap(part, function))

        def undo() -> None:
            for owner, name, function in before:
                delattr(owner, name) if function is None else setattr(owner, name, function)

        return undo


class Steps(Turns):
    """Marks the start of each step of the run, without steps of a bare loop in between."""

    def __init__(self, ledger: Ledger):
        super().__init__(lambda: None)
        self.ledger = ledger

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.ledger.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 1024])
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    quiet_libraries()
    naming.register()
    torch.set_num_threads(1)
    words = ["name=bench", "samples.n=0", "score.n=0", "trainer.check_val_every_n_epoch=100000", "model=unet_tiny"]
    settings = validated(Train, plain(composed("train", [*words, "trainer.max_epochs=-1"])))
    columns: dict[int, dict[str, float]] = {}
    console.quiet = True
    for batch in asked.batch:
        data = MadeUp(64 * batch, 1, batch)
        data.prepare_data()
        turns = Turns(bare_loop(settings, data, torch.device("cpu"), Free()))
        run(settings, data, asked.steps + SKIPPED, turns, network=Free())
        ours, bare = (statistics.median(cpu for _, cpu in each[SKIPPED:]) for each in (turns.run, turns.bare))
        ledger = Ledger()
        undo = ledger.install()
        try:
            run(settings, data, asked.steps + SKIPPED, Steps(ledger), network=Free())
        finally:
            undo()
        steps = ledger.steps[SKIPPED:]
        parts = {part: statistics.median(step.get(part, 0.0) for step in steps) for part in PARTS}
        rest = statistics.median(step["whole"] for step in steps) - sum(parts.values())
        columns[batch] = {"bare loop": bare, "run": ours, "more": ours - bare, **parts, "Lightning itself": rest}
    console.quiet = False
    table = Table(title="CPU time of a step in microseconds")
    table.add_column("")
    for batch in columns:
        table.add_column(f"batch {batch:,}", justify="right")
    for row in next(iter(columns.values())):
        table.add_row(row, *(f"{values[row] * 1e6:,.0f}" for values in columns.values()), end_section=row == "more")
    console.print(table)
    above = [batch for batch, values in columns.items() if values["more"] > LIMIT]
    console.print(
        f"overhead above {LIMIT * 1e3:g} ms at batch {', '.join(map(str, above))}" if above else "overhead within 1 ms"
    )


if __name__ == "__main__":
    main()
