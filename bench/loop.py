"""What a run costs beside a bare PyTorch loop of the same network, optimizer and batch: time and memory.

    python bench/loop.py [--model unet_small] [--batch 8] [--steps 12] [--rounds 3]

The two are timed in turns in one process (a machine's speed drifts), from the start of one step to the start of the
next, and medians are compared. The floor is the bare loop: batch, noise, forward, backward, optimizer, nothing else.
A third row is the run with the moving average of its weights, which the bare loop does not keep.
Memory, over that of the imports, is the peak of a process of its own for each (of the device on a GPU, else resident).
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from rich.table import Table

from diffusion.build import make
from diffusion.console import console
from diffusion.data import ImageData
from diffusion.paths import conf_dir
from diffusion.training.module import Diffusion
from diffusion.training.run import make_trainer
from diffusion.training.telling import quiet_libraries

SKIPPED = 3  # first steps of each turn, in which memory is allocated and kernels are chosen


class Clock(Callback):
    """The moment at which each step starts."""

    def __init__(self) -> None:
        self.starts: list[Moment] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.starts.append(now(pl_module.device))


Moment = tuple[float, float]  # seconds on the wall, and of processor time, which a busy machine disturbs less


def now(device: torch.device) -> Moment:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def resident(which: str) -> int:
    """Bytes of this process in memory: now (VmRSS) or at most so far (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) * 1024


def bare(cfg: DictConfig, data: ImageData, device: torch.device, steps: int) -> list[Moment]:
    """The starts of `steps` steps of the loop that one would write by hand."""
    network = make(cfg.model, "model").to(device)
    if cfg.channels_last:
        network.to(memory_format=torch.channels_last)
    optimizer = make(cfg.optimizer, "optimizer")(network.parameters())
    images = data.splits["train"].images
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).to(device)
    starts = []
    for _ in range(steps):
        starts.append(now(device))
        x0 = images[torch.randint(len(images), (cfg.data.batch_size,))].to(device).float() / 127.5 - 1
        index = torch.randint(1000, (len(x0),), device=device)
        eps = torch.randn_like(x0)
        a = alpha_bar[index].view(-1, 1, 1, 1)
        loss = (network(a.sqrt() * x0 + (1 - a).sqrt() * eps, index.float()) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return starts


def run(cfg: DictConfig, data: ImageData, steps: int) -> list[Moment]:
    """The starts of `steps` steps of a run as `diffusion.train` makes it, without the final validation."""
    clock = Clock()
    cfg = cfg.copy()
    cfg.trainer.max_steps = steps
    with tempfile.TemporaryDirectory() as folder:
        module = Diffusion(
            make(cfg.model, "model"), make(cfg.schedule, "schedule"), make(cfg.prediction, "prediction"),
            make(cfg.objective, "objective"), make(cfg.optimizer, "optimizer"), make(cfg.lr_scheduler, "lr_scheduler"),
        )  # fmt: skip
        if cfg.channels_last:
            module.denoiser.network.to(memory_format=torch.channels_last)
        trainer, _, _ = make_trainer(cfg, Path(folder), "{}", data, make(cfg.sampler, "sampler"), None, None)
        trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        trainer.limit_val_batches = 1
        trainer.fit(module, datamodule=data)
    return clock.starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unet_small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12, help="steps in a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--memory", choices=("bare", "run", "average"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    quiet_libraries()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    overrides = [f"model={options.model}", f"data.batch_size={options.batch}", "score.n=0", "name=bench"]
    overrides += ["samples.every_n_epochs=null", "trainer.check_val_every_n_epoch=1000"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        average = compose("train", overrides)
        plain = compose("train", [*overrides, "ema=none"])
    data: ImageData = make(plain.data, "data")
    data.prepare_data()
    data.setup()
    turns = {
        "bare": lambda: bare(plain, data, device, options.steps),
        "run": lambda: run(plain, data, options.steps),
        "average": lambda: run(average, data, options.steps),
    }
    if options.memory:
        console.quiet = True
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of what came before (Linux)
        turns[options.memory]()
        print(torch.cuda.max_memory_allocated() if device.type == "cuda" else resident("VmHWM") - before)
        return

    times: dict[str, list[Moment]] = {name: [] for name in turns}
    for _ in range(options.rounds):
        for name, turn in turns.items():
            starts = turn()[SKIPPED:]
            times[name] += [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(starts)]
    memory = {}
    for name in turns:
        command = [sys.executable, __file__, "--model", options.model, "--batch", str(options.batch), "--steps", "6"]
        out = subprocess.run([*command, "--memory", name], capture_output=True, text=True, check=True).stdout
        memory[name] = int(out.split()[-1])
    table = Table(title=f"{options.model}, batch {options.batch}, {device}")
    for column in ("loop", "ms a step", "ratio", "CPU ms", "ratio", "memory (MB)", "ratio"):
        table.add_column(column, justify="left" if column == "loop" else "right")
    labels = {"bare": "bare PyTorch", "run": "diffusion.train", "average": "… with the moving average"}
    median = {
        name: [statistics.median(column) for column in zip(*moments, strict=True)] for name, moments in times.items()
    }
    for name, label in labels.items():
        (wall, cpu), (least_wall, least_cpu) = median[name], median["bare"]
        table.add_row(
            label, f"{wall * 1e3:.1f}", f"{wall / least_wall:.3f}", f"{cpu * 1e3:.1f}", f"{cpu / least_cpu:.3f}",
            f"{memory[name] / 1e6:.0f}", f"{memory[name] / memory['bare']:.2f}",
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
