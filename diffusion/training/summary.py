"""What the console is told, and what it is spared."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from diffusion.console import console, duration
from diffusion.data import ImageData
from diffusion.report.formatting import Record, interval, short
from diffusion.training.module import Diffusion


def say_what_runs(folder: Path, data: ImageData, module: Diffusion) -> None:
    """Two lines before the first step."""
    counts = ", ".join(f"{len(split.images)} {name}" for name, split in data.splits.items())
    parameters = sum(p.numel() for p in module.denoiser.network.parameters())
    console.print(
        f"images {data.resolution}×{data.resolution}: {counts} · network of {parameters / 1e6:.2f} M parameters"
    )
    console.print(f"run folder: {folder}")


def say_scores(records: Sequence[Record]) -> None:
    """The scores with their intervals, and the yardsticks beside them, with their n where it is another."""
    first = records[0]
    against = first["reference"]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{first['n']} images against {against['n']} of {against['split']}",
        title_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    found = dict.fromkeys(r["what"] for r in records)
    columns = [what for what in ("samples", "images", "floor", "real", "untrained", "noise") if what in found]
    table.add_column("score", overflow="fold")  # which gives way where the numbers need the room
    sizes = {r["what"]: r["n"] for r in records}
    others = [name if sizes[name] == first["n"] else f"{name} (n={sizes[name]})" for name in columns[1:]]
    for name in (columns[0], "interval", *others):
        table.add_column(name, justify="left" if name == "interval" else "right", no_wrap=True)
    for metric in dict.fromkeys(r["metric"] for r in records):
        rows = {r["what"]: r for r in records if r["metric"] == metric}
        values = [short(rows[what]["value"]) if what in rows else "—" for what in columns]
        table.add_row(metric, values[0], interval(rows.get(columns[0])), *values[1:])
    console.print(table, soft_wrap=False)


def say_where(folder: Path, seconds: float) -> None:
    """Where everything is."""
    console.print(f"done in {duration(seconds)}")
    for what, name in {
        "samples": "samples/final.png",
        "curves": "figures/mse.png",
        "gap": "figures/gap.png",
        "copies": "figures/copies.png",
        "scores": "scores.json",
        "checkpoint": "checkpoints/last.ckpt",
        "report": "README.md",
    }.items():
        if (folder / name).exists():
            console.print(f"  {what:<11}{folder / name}")


def quiet_libraries() -> None:
    """Silence what says nothing about this run: tips, and warnings about choices made on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*isinstance.treespec, LeafSpec.*",
        ".*Found .* module.* in eval mode.*",
        ".*does not have many workers.*",  # the data lies in memory
        ".*Experiment logs directory.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*is smaller than the logging interval.*",
        ".*recommended to use .self.log.*sync_dist=True.*",  # torchmetrics has reduced it already
        ".*distributed.nn.functional.all_gather is deprecated.*",  # Lightning's own call
        ".*lr_scheduler.step.*before.*optimizer.step.*",
    ):
        warnings.filterwarnings("ignore", message)
