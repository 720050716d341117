"""The page of where the loss is: a network's errors by noise level beside those of the best denoiser."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffusion.base.files import read_table
from diffusion.findings.underfitting import Row, sentence
from diffusion.report import style
from diffusion.report.page import Block, Section, write_files
from diffusion.runs.folder import FLOOR, Run

LOOKS: Any = {
    "floor": {"label": "floor: best denoiser of the training images", "color": style.INK, "linewidth": 1.1},
    "best": {"label": "the same without the image's photograph", "color": style.GREY, "linestyle": "--"},
    "train": {"label": "network, training images", "color": style.VERMILION, "marker": "o"},
    "held_out": {"label": "network, held-out images", "color": style.BLUE, "marker": "s"},
}
CAPTION = (
    "Above: errors by noise level. On images that were not seen, the lowest possible error is in the shaded band, on "
    "average. Below: how far the loss on training images is above its floor. Bars: intervals that hold together with "
    "95%. Under-fitted: worse, even on training images, than the dashed line. All numbers are in floor.csv."
)


@style.chart("figures/floor.png", (style.TALL[0], 4.6))
def floor(figure: Figure, rows: Sequence[Row]) -> str:
    """The errors of x0 by noise level, and how far the loss is above its floor."""
    of = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    least, bars = min(of["train"].min(), of["held_out"].min()) / 3, {"markersize": 3, "elinewidth": 0.8, "capsize": 2}
    above.fill_between(of["level"], np.maximum(of["floor"], least / 9), of["best"], color=style.LIGHT, alpha=0.5, lw=0)
    for name, look in LOOKS.items():
        half = of[f"{name}_half"] if "marker" in look else None
        above.errorbar(of["level"], np.maximum(of[name], least / 9), half, **{"linewidth": 1.2, **bars, **look})
    style.log_axis(above)
    above.set(xscale="log", ylabel="squared error of $x_0$", ylim=(least, 2 * np.nanmax([of["best"], of["train"]])))
    look = {**LOOKS["train"], "label": "loss above the floor"}
    below.errorbar(of["level"], of["weight"] * of["above"], of["weight"] * of["above_half"], **bars, **look)
    below.set(xlabel=r"noise level  $\sigma/\alpha$", ylabel="loss above its floor", ylim=(0, None))
    below.xaxis.set_major_formatter("{x:g}")
    style.legend_below(figure, above)
    return CAPTION


def floor_blocks(folder: Path) -> list[Block | str]:
    """The sentence and the chart; nothing without floor.csv."""
    if not (folder / FLOOR).is_file():
        return []
    rows = [{key: float(value) for key, value in row.items()} for row in read_table(folder / FLOOR)]
    return [sentence(rows), floor(rows)]


def write_floor(run: Run) -> list[Path]:
    title = f"Noise levels of {run.config.get('ckpt', run.folder.resolve().name)}"
    return write_files(run.folder, "study.md", title, [Section("Where the loss is", floor_blocks(run.folder))])
