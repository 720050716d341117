"""Where the loss is: a network's errors by noise level beside those of the best denoiser of its training images.

On training images, that denoiser has the lowest possible error, the floor. With the photograph of each image left out,
it is one of many that have not seen this image. The best of these, on average, has an error between the two. So a
network is under-fitted if its error, even on images that it has seen, is higher than that of the denoiser that has not.
It memorizes if its error on training images is lower than that on held-out images, with the same noises. Each is only
claimed where the whole interval says so. Without any interval, it cannot be told.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffusion.base.files import read_table
from diffusion.report import style
from diffusion.report.page import Block, Section, write_files
from diffusion.runs.folder import FLOOR, Run

Row = dict[str, float]  # of floor.csv
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


def sentence(rows: Sequence[Row]) -> str:
    """Which noise levels are under-fitted, by how much, and which are being memorized; or that it cannot be told."""
    unknown = "with so few photographs, it cannot be told whether it "
    under, much = largest(rows, "behind", "best")
    if under is None:
        first = f"{unknown}is under-fitted"
    elif under:
        first = (
            f"at {under} it is under-fitted: its error on training images is {much} above that of their best denoiser "
        )
        first += "without the photograph of the image"
    else:
        first = "at no noise level is it shown to be under-fitted"
    memorized, much = largest(rows, "gap", "held_out")
    if memorized is None:
        second = f"{unknown}memorizes"
    elif memorized:
        second = f"at {memorized} it memorizes: its error on training images is {much} below that on held-out images"
    else:
        second = "at none is it shown to memorize"
    text = f"{first[0].upper()}{first[1:]}; {second}."
    noisy, compared = (int(rows[0][name]) for name in ("noisy", "compared"))
    if compared == noisy:
        return text
    only = f"Under-fitting is judged by {compared} of {noisy} images: no other photograph has the label of the others."
    return f"{text} {only}"


def largest(rows: Sequence[Row], name: str, of: str) -> tuple[str | None, str]:
    """The levels where a difference is above 0 with its whole interval (None: unknown), and its share of `of`."""
    if all(math.isnan(row[f"{name}_half"]) for row in rows):
        return None, ""
    shown = [row for row in rows if row[name] - row[f"{name}_half"] > 0]
    if not shown:
        return "", ""
    most = max(shown, key=lambda row: row[name] / row[of])
    much = f"{most[name] / most[of]:.1%} ± {most[f'{name}_half'] / most[of]:.1%}"
    if len(shown) == 1:
        return f"noise level {ranges(rows, shown)}", much
    return f"noise levels {ranges(rows, shown)}", f"up to {much} (at {most['level']:.2g})"


def ranges(rows: Sequence[Row], shown: Sequence[Row]) -> str:
    """The levels of the rows that are `shown`, in words: `0.02 to 0.11 and 20`."""
    runs = [[f"{row['level']:.2g}" for row in run] for inside, run in groupby(rows, shown.__contains__) if inside]
    return " and ".join(" to ".join(dict.fromkeys((run[0], run[-1]))) for run in runs)


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
