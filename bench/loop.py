"""Time and memory of a run, compared with a bare PyTorch loop over the same network, optimizer and batch size.

    python bench/loop.py [--model unet_small] [--batch 8] [--steps 40]

Steps of the two alternate in one process, because a machine's speed drifts by more than the difference; a step lasts
until the next one starts. The ratio is the median of the pairs' ratios with its 95% interval (order statistics). The
floor is the bare loop: batch, noise, forward pass, backward pass, optimizer, nothing else. The bare loop has no moving
average of the weights, so the run is measured both without and with one.
Memory is the peak beyond the imports, measured in a separate process for each (device memory on a GPU, else resident).
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from measuring import Moment, between, forget_peak, median_of_ratios, moment, resident
from rich.table import Table

from diffusion.base.console import console, quiet_libraries
from diffusion.config.build import make, validated
from diffusion.config.choices import composed
from diffusion.config.schema import Train
from diffusion.data import ImageData
from diffusion.runs import naming
from diffusion.training import run as training

CALLBACKS = training.callbacks_of
SKIPPED = 3  # first steps, which allocate memory and choose kernels


class Turns(Callback):
    """Makes a step of the bare loop before each step of the run and times both; must be the last callback."""

    def __init__(self, bare_step: Callable[[], None]) -> None:
        self.bare_step = bare_step
        self.bare: list[Moment] = []
        self.run: list[Moment] = []
        self.started: Moment | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        start = moment(pl_module.device)
        if self.started is not None:
            self.run.append(between(self.started, start))
        self.bare_step()
        self.started = moment(pl_module.device)
        self.bare.append(between(start, self.started))


def bare_loop(settings: Train, data: ImageData, device: torch.device) -> Callable[[], None]:
    """A step of a hand-written training loop."""
    network = make(settings.model, "model").to(device, memory_format=torch.channels_last)
    optimizer = make(settings.optimizer, "optimizer")(list(network.parameters()))
    mixed = (settings.trainer.model_extra or {}).get("precision") == "bf16-mixed"
    images = data.splits["train"].images
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).to(device)

    def step() -> None:
        x0 = images[torch.randint(len(images), (data.batch_size,))].to(device).float() / 127.5 - 1
        index = torch.randint(1000, (len(x0),), device=device)
        eps = torch.randn_like(x0)
        a = alpha_bar[index].view(-1, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            y = network(a.sqrt() * x0 + (1 - a).sqrt() * eps, index.float())
        loss = (y[:, : x0.shape[1]].float() - eps).square().mean()  # without a learned variance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def run(settings: Train, steps: int, turns: Turns | None = None) -> None:
    """Make some steps of a run as `diffusion train` does."""
    limited = settings.trainer.model_copy(update={"max_steps": steps, "limit_val_batches": 1})
    if turns is not None:
        training.callbacks_of = lambda parts: [*CALLBACKS(parts), turns]
    with tempfile.TemporaryDirectory() as folder:
        training.train(settings.model_copy(update={"trainer": limited}), Path(folder), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unet_small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40, help="steps of each loop")
    parser.add_argument("--memory", choices=("bare", "run", "average"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    quiet_libraries()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    overrides = [f"model={options.model}", f"data.batch_size={options.batch}", "score.n=0", "samples.n=0", "name=bench"]
    overrides += ["trainer.check_val_every_n_epoch=1000"]
    naming.register()
    words = {"run": [*overrides, "ema=none"], "average": overrides}
    configs = {name: validated(Train, composed("train", each)) for name, each in words.items()}
    data: ImageData = make(configs["run"].data, "data")
    data.setup()
    console.quiet = True
    if options.memory:
        before = resident("VmRSS")
        forget_peak()
        if options.memory == "bare":
            step = bare_loop(configs["run"], data, device)
            for _ in range(options.steps):
                step()
        else:
            run(configs[options.memory], options.steps)
        print(torch.cuda.max_memory_allocated() if device.type == "cuda" else resident("VmHWM") - before)
        return

    memory = {}
    for name in ("bare", *configs):
        command = [sys.executable, __file__, "--model", options.model, "--batch", str(options.batch), "--steps", "6"]
        out = subprocess.run([*command, "--memory", name], stdout=subprocess.PIPE, text=True, check=True).stdout
        memory[name] = int(out.split()[-1])
    table = Table(title=f"a step of {options.model}, batch {options.batch}, {device}; ratios to the bare loop")
    for column in ("loop", "ms", "wall time", "CPU time", "MB", "memory"):
        table.add_column(column, justify="left" if column == "loop" else "right", no_wrap=True)
    for name, settings in configs.items():
        turns = Turns(bare_loop(settings, data, device))
        run(settings, options.steps + SKIPPED + 1, turns)
        bare_wall, bare_cpu = (list(column) for column in zip(*turns.bare[SKIPPED:-1], strict=True))
        wall, cpu = (list(column) for column in zip(*turns.run[SKIPPED:], strict=True))
        if name == "run":
            ms = statistics.median(bare_wall) * 1e3
            table.add_row("bare PyTorch", f"{ms:.1f}", "1", "1", f"{memory['bare'] / 1e6:.0f}", "1")
        table.add_row(
            {"run": "diffusion.train", "average": "… with EMA"}[name],
            f"{statistics.median(wall) * 1e3:.1f}", median_of_ratios(wall, bare_wall), median_of_ratios(cpu, bare_cpu),
            f"{memory[name] / 1e6:.0f}", f"{memory[name] / memory['bare']:.2f}",
        )  # fmt: skip
    console.quiet = False
    console.print(table)


if __name__ == "__main__":
    main()
