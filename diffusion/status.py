"""`python -m diffusion.status [FOLDER]`: the runs in a folder: state, step, last score, time of the last write."""

import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from rich import box
from rich.table import Table

from diffusion.console import console, count
from diffusion.errors import Arguments, UserError, exit_status
from diffusion.report.formatting import half_width, number
from diffusion.runs.folder import PARTS, Run, command_of, runs_below
from diffusion.runs.record import RunRecord

STYLES = {
    "complete": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "died": "red",
    "unreadable": "red", "not started": "dim",
}  # fmt: skip
ABOUT = """\
List the runs in a folder and its sub-folders: state, step, last score, time of the last write.

  complete, failed, interrupted   as the run recorded at its end, with the reason
  running                         its process is alive
  died                            its process is gone, or is on another machine and
                                  has not written for 5 minutes
  not started                     there is only a configuration
  unreadable                      its run.json is damaged

Exit status: 0 whatever the states of the runs; 2 where there is no such folder.
"""


def main(arguments: list[str] | None = None) -> int:
    """List the runs in a folder; 0, or 2 with one line on stderr."""
    parser = Arguments("status", ABOUT)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    folder = parser.parse_args(arguments).folder
    return exit_status(partial(print_status, folder), "check the folder's rights")


def print_status(folder: Path) -> None:
    """Print the table of the runs, and how many are in each state. Raises UserError where there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one that holds runs, such as outputs")
    made = [(path, command_of(path)) for path in runs_below(folder)]
    rows = [row(path, folder) for path, command in made if command == "train"]
    if rows:
        print_table(rows)
    states, others = Counter(cells[1] for cells in rows), Counter(c for _, c in made if c != "train")
    counts = ", ".join(f"{states[state]} {state}" for state in STYLES if state in states)
    console.print(f"{count(len(rows), 'run')} below {folder}" + (f": {counts}" if counts else ""))
    if others:
        console.print("not listed: " + ", ".join(f"{n} × diffusion.{command}" for command, n in others.items()))
    if states["died"] + states["interrupted"]:
        console.print("to resume one: python -m diffusion.train hydra.run.dir=RUN ckpt=auto")


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print the table, and the reasons below it, because they are long."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "state", "step", "last score", "last wrote"):
        table.add_column(name, overflow="fold", no_wrap=name != "run")
    for cells in rows:
        table.add_row(*cells[:-1], style=STYLES.get(cells[1]))
    console.print(table)
    for run, state, *_, reason in rows:
        if reason:
            console.print(f"{run}: {reason}", style=STYLES.get(state))


def row(folder: Path, root: Path) -> tuple[str, ...]:
    """The cells of a run: its name, state, steps, last score, time of the last write, and the reason of its end."""
    record = RunRecord(folder)
    content = record.content
    steps = "" if content.get("steps") is None else str(content["steps"])
    steps += f" of {content['total_steps']}" if content.get("total_steps") else ""
    try:
        score = last_score(Run(folder))
    except UserError as error:
        score = str(error).removeprefix(f"{folder}/")
    written = next(file.stat().st_mtime for part in PARTS if (file := folder / part).exists())
    reason = record.damage or str(content.get("reason", ""))
    return str(folder.relative_to(root)), record.state, steps, score, ago(time.time() - written), reason


def ago(seconds: float) -> str:
    """`12 s ago`, `4 min ago`, `3 h ago`, `2 days ago`."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length * (2 if unit == "days" else 1):
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def last_score(run: Run) -> str:
    """The last score of samples but `copies`, `fd_lite0 123.4`; without one the last error, `val/mse 0.0412`."""
    scored = [score for score in run.scores if score.what == "samples" and score.metric != "copies"]
    if scored:
        return f"{scored[-1].metric} {number(scored[-1].value, half_width(scored[-1]))}"
    series = run.metrics.get("val/mse")
    return f"val/mse {number(series.value[-1])}" if series else ""


if __name__ == "__main__":
    sys.exit(main())
