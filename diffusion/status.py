"""`python -m diffusion.status [FOLDER]`: list the runs in a folder: state, step, time left, score, last write."""

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from diffusion.console import console, count, duration
from diffusion.errors import Arguments, UserError, exit_status, nearest
from diffusion.report.lines import Line, line
from diffusion.runs.folder import command_of, runs_below

STYLES = {
    "complete": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "died": "red",
    "unreadable": "red", "not started": "dim",
}  # fmt: skip
ABOUT = """\
List the runs in a folder and its sub-folders: state, step, time left, score, time of the last write. The score is the
latest value of the run's first metric or, if there is none, the latest denoising error. The states are those that the
runs recorded; but `died`: the process is gone, `not started`: there is only a configuration, `unreadable`: run.json is
damaged. Exit status: 0 regardless of the runs' states; 2 if the folder does not exist.
"""
ORDERS: dict[str, Callable[[Line], Any]] = {
    "run": lambda line: 0,  # in the order found
    "state": lambda line: [*STYLES].index(line.state),
    "step": lambda line: -(line.steps or 0),
    "left": lambda line: math.inf if line.seconds_left is None else line.seconds_left,
    "score": lambda line: (line.metric or "~", (line.value or 0) * (-1 if line.lower is False else 1)),
    "wrote": lambda line: -line.written,
}


def main(arguments: list[str] | None = None) -> int:
    """List the runs in a folder. Returns the exit status: 0, or 2 with one line on stderr."""
    parser = Arguments("status", ABOUT)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--sort", choices=ORDERS, default="run", help="score: best first; wrote: newest first")
    parser.add_argument("--state", help="show only these states, such as running or failed,died")
    parser.add_argument("--json", action="store_true", help="print a list of objects, for programs")
    asked = parser.parse_args(arguments)
    task = lambda: print_status(asked.folder, asked.sort, asked.state, asked.json)  # noqa: E731
    return exit_status(task, "check the folder's permissions")


def print_status(folder: Path, sort: str = "run", state: str | None = None, as_json: bool = False) -> None:
    """Print a table of the runs and the number of runs in each state, or the runs as JSON.

    Args:
        sort: one of `ORDERS`.
        state: the states to list, separated by commas; None for all.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; choose a folder with runs, such as outputs")
    wanted = list(STYLES) if state is None else state.split(",")
    for each in wanted:
        if each not in STYLES:
            raise UserError(f"--state {each}: unknown state{nearest(each, STYLES)}; it is one of {', '.join(STYLES)}")
    made = [(path, command_of(path)) for path in runs_below(folder)]
    lines = [line(path, folder) for path, command in made if command == "train"]
    listed = sorted((each for each in lines if each.state in wanted), key=ORDERS[sort])
    if as_json:
        written = [time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(each.written)) for each in listed]
        print(json.dumps([{**asdict(a), "written": b} for a, b in zip(listed, written, strict=True)], indent=1))
        return
    if listed:
        print_table(listed)
    states, others = Counter(each.state for each in lines), Counter(c for _, c in made if c != "train")
    counts = ", ".join(f"{states[state]} {state}" for state in STYLES if state in states)
    console.print(f"{count(len(lines), 'run')} below {folder}" + (f": {counts}" if counts else ""))
    if others:
        console.print("not listed: " + ", ".join(f"{n} × diffusion.{command}" for command, n in others.items()))
    if states["died"] + states["interrupted"]:
        console.print(f"to resume one: python -m diffusion.train hydra.run.dir={folder}/RUN ckpt=auto")


def print_table(lines: list[Line]) -> None:
    """Print the table, with the reasons below it because they are long."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "state", "step", "left", "score", "wrote"):
        table.add_column(name, overflow="fold", no_wrap=name != "run")
    for each in lines:
        steps = "" if each.steps is None else str(each.steps) + (f" of {each.total_steps}" if each.total_steps else "")
        left = "" if each.seconds_left is None else duration(each.seconds_left)
        score, ago = f"{each.metric} {each.score}" if each.metric else "", max(0.0, time.time() - each.written)
        table.add_row(each.run, each.state, steps, left, score, f"{duration(ago)} ago", style=STYLES.get(each.state))
    console.print(table)
    for each in lines:
        if each.reason:
            console.print(f"{each.run}: {each.reason}", style=STYLES.get(each.state))


if __name__ == "__main__":
    sys.exit(main())
