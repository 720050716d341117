"""List the runs in a folder and its sub-folders: state, step, time left, score, time of the last write.

The score is the latest value of the run's first metric or, if there is none, the latest denoising error. The states are
those that the runs recorded; but `died`: the process is gone, `not started`: there is no run.json, `unreadable`:
run.json is damaged. Exit status: 0 regardless of the runs' states; 2 if the folder does not exist.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from diffusion.console import console, count, duration
from diffusion.errors import Arguments
from diffusion.metric.record import Score
from diffusion.report.index import Line, line
from diffusion.runs.folder import command_of, runs_below

STYLES = {
    "complete": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "died": "red",
    "unreadable": "red", "not started": "dim",
}  # fmt: skip
ORDERS: dict[str, Callable[[Line], Any]] = {
    "run": lambda line: 0,  # in the order found
    "score": lambda line: by_score(line.score),
    "wrote": lambda line: -line.written,
}


def by_score(score: Score | None) -> tuple[str, float]:
    """A sort key: by metric, the best first; runs without a score last."""
    return (score.name, -score.value if score.higher_is_better else score.value) if score else ("~", 0.0)


def main(arguments: list[str] | None = None) -> int:
    """List the runs in a folder. Returns the exit status: 0, or 2 with one line on stderr."""
    parser = Arguments("status", __doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--sort", choices=ORDERS, default="run", help="score: best first; wrote: newest first")
    return parser.run(print_status, arguments)


def print_status(folder: Path, sort: str) -> None:
    """Print a table of the runs, the reasons of those that stopped, and the number of runs in each state."""
    lines = [line(path) for path in runs_below(folder) if command_of(path) == "train"]
    lines.sort(key=ORDERS[sort])
    table = Table("run", "state", "step", "left", "score", "wrote", box=box.SIMPLE_HEAD, pad_edge=False)
    for each in lines:
        wrote = f"{duration(max(0.0, time.time() - each.written))} ago"
        row = (str(each.folder.relative_to(folder)), each.state, each.steps, each.left, each.score_text, wrote)
        table.add_row(*row, style=STYLES[each.state])
    if lines:
        console.print(table)
    for each in lines:
        if each.reason:
            console.print(f"{each.folder.relative_to(folder)}: {each.reason}", style=STYLES[each.state])
    states = Counter(each.state for each in lines)
    counts = ", ".join(f"{n} {state}" for state, n in states.items())
    console.print(f"{count(len(lines), 'run')} below {folder}" + (f": {counts}" if counts else ""))
    if states["died"] + states["interrupted"]:
        console.print(f"to resume one: python -m diffusion.train hydra.run.dir={folder}/RUN ckpt=auto")


if __name__ == "__main__":
    sys.exit(main())
