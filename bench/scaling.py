"""How time and memory grow with images, batch, resolution, samples, runs below a folder, and validations in a run.

    python bench/scaling.py [CURVE …] [--small | --full] [--largest SIZE] [--out docs]

Each size is measured in its own process with one torch thread, on generated data in a temporary folder. Costs are in
CPU seconds, which other load on the machine changes little. The constant is the intercept of the line through all
sizes, fitted by least squares of the relative errors; the exponent is the slope of log(cost − constant) against
log(size) over the larger half of the sizes, unless the constant is most of the cost. Each cost is also compared with
its floor, a bare loop that does only the unavoidable work (see `bench/curves.py`). Memory is the peak growth.

The points are kept in scaling.csv until their curve is measured again. The figure (scaling.png) and the table (between
the two marks in scaling.md) show all kept points.
"""

import argparse
import contextlib
import csv
import math
import os
import re
import sys
import tempfile
from collections import defaultdict
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from curves import CURVES, Curve
from matplotlib.figure import Figure
from rich.table import Table as Printed
from scipy.optimize import nnls

from diffusion.console import console, hiding_bars, progress_bar
from diffusion.report import style
from diffusion.report.blocks import Table

MOST = 1.1  # the largest accepted exponent
LEAST_BYTES = 20e6  # memory that grows by less counts as flat
FORKED = get_context("fork")  # so modules are imported only once
HEAD = ("curve", "what", "size", "seconds", "floor", "memory")
MARKS = re.compile(r"(?<=<!-- curves -->\n).*?(?=<!-- end -->)", re.DOTALL)


class Point(NamedTuple):
    """A workload at one size: CPU seconds, CPU seconds of its floor (NaN without one), bytes."""

    size: int
    seconds: float
    floor: float
    memory: float


Points = dict[tuple[str, str], list[Point]]
"""Curve and workload -> its points, in order of size."""


def constant(sizes: np.ndarray, costs: np.ndarray) -> float:
    """The c ≥ 0 of the line c + a·size, a ≥ 0, fitted by least squares of the relative errors."""
    (c, _), _ = nnls(np.stack([np.ones_like(costs), sizes], axis=1) / costs[:, None], np.ones_like(costs))
    return float(c)


def exponent(sizes: np.ndarray, costs: np.ndarray) -> float:
    """The slope of log(cost − constant) against log(size), over the larger half of the sizes.

    NaN if the constant is more than half of the largest cost, which says too little about the rest.
    """
    half, fixed = len(sizes) // 2, constant(sizes, costs)
    if fixed > costs[-1] / 2:
        return math.nan
    rest = np.maximum(costs - fixed, 1e-2 * costs)[half:]
    return float(np.polyfit(np.log(sizes[half:]), np.log(rest), 1)[0])


def measure(curve: Curve, size: int) -> dict[str, Point]:
    """Measure the workloads of a curve at one size, in a new process. Raises SystemExit if that fails."""
    answers = FORKED.SimpleQueue()
    process = FORKED.Process(target=one, args=(curve, size, answers))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)
    return answers.get()


def one(curve: Curve, size: int, answers: Any) -> None:
    """Measure in this process."""
    console.quiet = True
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nothing,
        redirect_stdout(nothing),
        contextlib.chdir(folder),
        hiding_bars(),
    ):
        os.environ["DIFFUSION_CACHE"] = folder
        answers.put({x.what: Point(size, *x[1:]) for x in curve.measure(size, Path(folder))})


def read(file: Path) -> Points:
    """Read the points of earlier measurements."""
    points: Points = defaultdict(list)
    for row in csv.DictReader(file.read_text().splitlines()) if file.exists() else ():
        values = (float(row[name]) for name in ("seconds", "floor", "memory"))
        points[row["curve"], row["what"]].append(Point(int(row["size"]), *values))
    return points


def write(file: Path, points: Points) -> None:
    """Write the points to a file."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEAD)
        for (curve, what), found in points.items():
            writer.writerows((curve, what, p.size, *(f"{x:.4g}" for x in p[1:])) for p in found)


def text_of(seconds: float) -> str:
    """`12 s`, `3.4 ms`, `5.6 µs`."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def lines(points: Points) -> list[list[str]]:
    """A line of the table for each workload."""
    table = []
    for (curve, what), found in points.items():
        size, taken, floor, memory = (np.array(column) for column in zip(*found, strict=True))
        memory = np.maximum(memory, 1e3)
        grown = memory[-1] - memory[0]
        power = exponent(size, taken)
        low = math.isnan(floor[-1])
        shown = "–" if math.isnan(power) else f"{power:.2f}" + " **" * (power > MOST)
        table.append([
            curve, what, f"{size[0]:,} … {size[-1]:,}", shown,
            text_of(constant(size, taken)), "" if low else text_of(constant(size, floor)),
            text_of(taken[-1] / size[-1]), "" if low else f"{taken[-1] / floor[-1]:.3g}",
            f"{memory[-1] / 1e6:,.0f} MB", "flat" if grown < LEAST_BYTES else f"{exponent(size, memory):.2f}",
        ])  # fmt: skip
    return table


COLUMNS = (
    "curve", "what", "sizes", "exponent", "constant", "floor constant", "cost per item", "cost / floor",
    "peak memory", "memory exponent",
)  # fmt: skip


@style.styled
def figure(points: Points) -> Figure:
    """A column for each curve: seconds at the top, with dotted floors, and memory at the bottom."""
    curves = list(dict.fromkeys(curve for curve, _ in points))
    drawn = Figure(figsize=(2.5 * len(curves), 5.4), layout="constrained")
    axes = drawn.subplots(2, len(curves), squeeze=False)
    for k, curve in enumerate(curves):
        time, memory = axes[:, k]
        works = {what: found for (name, what), found in points.items() if name == curve}
        colours = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE)
        for colour, (what, found) in zip(colours, works.items(), strict=False):
            sizes = [p.size for p in found]
            time.plot(sizes, [p.seconds for p in found], "o-", color=colour, label=what, markersize=3)
            time.plot(sizes, [p.floor for p in found], ":", color=colour)
            memory.plot(sizes, [max(p.memory, 1e5) / 1e6 for p in found], "o-", color=colour, markersize=3)
        for ax in (time, memory):
            ax.set_xscale("log")
            ax.set_yscale("log")
        time.set_title(curve)
        time.legend(fontsize=7)
        memory.set_xlabel(CURVES[curve].unit)
    axes[0, 0].set_ylabel("CPU seconds (dotted: floor)")
    axes[1, 0].set_ylabel("peak MB")
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "curves", nargs="*", choices=[[], *CURVES], metavar="CURVE", help=f"any of {', '.join(CURVES)}; default: all"
    )
    ranges = parser.add_mutually_exclusive_group()
    ranges.add_argument("--small", action="store_true", help="shorter ranges for a quick trial; nothing is saved")
    ranges.add_argument("--full", action="store_true", help="the longest ranges; slow")
    parser.add_argument("--largest", type=int, default=sys.maxsize, help="skip larger sizes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs", help="default: docs")
    asked = parser.parse_args()
    chosen = {name: CURVES[name] for name in asked.curves or CURVES}
    earlier = {} if asked.small else read(asked.out / "scaling.csv")
    points: Points = defaultdict(list, earlier)
    fresh: Points = defaultdict(list)
    length = "small" if asked.small else "full" if asked.full else "usual"
    works = [(name, n) for name, curve in chosen.items() for n in getattr(curve, length) if n <= asked.largest]
    with progress_bar() as bar:
        task = bar.add_task("curves", total=len(works), unit="size", note="")
        for name, size in works:
            bar.update(task, note=f"{name}: {size:,} {CURVES[name].unit}")
            for what, point in measure(CURVES[name], size).items():
                fresh[name, what].append(point)
            if size == max(n for which, n in works if which == name):  # the curve is complete
                points = defaultdict(list, {key: found for key, found in points.items() if key[0] != name})
                points |= {key: found for key, found in fresh.items() if key[0] == name}
            if not asked.small:
                write(asked.out / "scaling.csv", points)
            bar.advance(task)
    points = {key: points[key] for name in CURVES for key in points if key[0] == name}
    table = Printed(title=f"exponents above {MOST} are marked **; costs and memory are those at the largest size")
    for i, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if i < 2 else "right")
    for line in lines(points):
        table.add_row(*line)
    console.print(table)
    if asked.small:
        return
    write(asked.out / "scaling.csv", points)
    console.print(str(style.save(figure(points), asked.out / "scaling.png")))
    page = asked.out / "scaling.md"
    if page.exists():
        rows = Table(COLUMNS, lines(points), "Scaling", range(3, len(COLUMNS))).markdown()
        page.write_text(MARKS.sub(lambda _: rows + "\n", page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
