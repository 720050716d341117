"""`python -m diffusion.status [FOLDER]`: the runs below a folder: state, step, last score, when it was last heard."""

import argparse
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from diffusion.console import console, count
from diffusion.errors import UserError, exit_status
from diffusion.runs.folder import PARTS, Run, command_of, is_run

BEAT = 30.0  # seconds between the touches of run.json by which a run shows that it lives
SILENCE = 10 * BEAT  # after which a run on another machine is taken for dead
STATES = {
    "complete": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "died": "red",
    "unreadable": "red", "not started": "dim",
}  # fmt: skip
ABOUT = """\
List the runs below a folder: state, step, last score, when each was last heard.

  complete, failed, interrupted   what the run said at its end, with the reason
  running                         its process lives
  died                            its process is gone, or is on another machine and
                                  has not been heard for 5 minutes
  not started                     there is a configuration alone

Exit status: 0 whatever became of the runs; 2 where there is no such folder.
"""


def main(arguments: list[str] | None = None) -> int:
    """List the runs below the folder named; 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m diffusion.status", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    folder = parser.parse_args(arguments).folder
    return exit_status(partial(tell, folder), "check the folder's rights")


def tell(folder: Path) -> None:
    """Print the table. Raises UserError where there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one that holds runs, such as outputs")
    made = [(path, command_of(path)) for path in runs(folder)]
    rows = [row(path, folder) for path, command in made if command == "train"]
    if rows:
        show(rows)
    states, others = Counter(cells[1] for cells in rows), Counter(c for _, c in made if c != "train")
    counts = ", ".join(f"{states[state]} {state}" for state in STATES if state in states)
    console.print(f"{count(len(rows), 'run')} below {folder}" + (f": {counts}" if counts else ""))
    if others:
        console.print("not listed: " + ", ".join(f"{n} × diffusion.{command}" for command, n in others.items()))
    if states["died"] + states["interrupted"]:
        console.print("to go on with one: python -m diffusion.train hydra.run.dir=RUN ckpt=auto")


def show(rows: list[tuple[str, ...]]) -> None:
    """Print the table, and below it the reasons, which are long."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "state", "step", "last score", "heard"):
        table.add_column(name, overflow="fold", no_wrap=name != "run")
    for cells in rows:
        table.add_row(*cells[:-1], style=STATES.get(cells[1]))
    console.print(table)
    for run, state, *_, reason in rows:
        if reason:
            console.print(f"{run}: {reason}", style=STATES.get(state))


def runs(folder: Path) -> Iterator[Path]:
    """The folders that commands made in `folder`, itself included, in order of their names (job 2 before 10)."""
    if is_run(folder):
        yield folder
    else:
        inside = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
        for path in sorted(inside, key=lambda path: (path.name.isdigit(), len(path.name) * path.name.isdigit(), path)):
            yield from runs(path)


def row(folder: Path, root: Path) -> tuple[str, ...]:
    """One line of the table."""
    run = Run(folder)
    try:
        record, score = run.info, last_score(run)
    except Exception as error:  # a broken file of one run hides no other
        return str(folder.relative_to(root)), "unreadable", "", "", "", str(error)
    steps = f"{record.get('steps', 0)}" + (f"/{record['total_steps']}" if record.get("total_steps") else "")
    heard = ago(time.time() - beat(folder))
    return str(folder.relative_to(root)), state(folder, record), steps, score, heard, str(record.get("reason", ""))


def state(folder: Path, record: dict[str, Any]) -> str:
    """What a run says of itself in `record` (its run.json), corrected where it can't speak any more."""
    said = str(record.get("state", "not started"))
    if said != "running":
        return said
    if record.get("host") == platform.node():
        alive = process(int(record.get("pid", 0)))
        return said if alive is not None and record.get("process") == alive else "died"
    return said if time.time() - beat(folder) < SILENCE else "died"


def ago(seconds: float) -> str:
    """`12 s ago`, `4 min ago`, `3 h ago`, `2 days ago`."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length * (2 if unit == "days" else 1):
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def beat(folder: Path) -> float:
    """When the run was last heard."""
    return next(file.stat().st_mtime for part in PARTS if (file := folder / part).exists())


def process(pid: int) -> str | None:
    """What tells the process `pid` of this machine from a later one of that number; None where there is none."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # it lives, and is another user's
    except (OSError, OverflowError):
        return None
    try:
        said = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if said[0] == "Z" else said[19]  # its start, in ticks since boot; Z: it has ended, unnoticed
    except (OSError, IndexError):
        return "alive"


def last_score(run: Run) -> str:
    """`fd_lite0 123.4` of the last samples that were scored (the audit's `copies` is none), else `val/mse 0.0412`."""
    scored = [record for record in run.scores if record.get("what") == "samples" and record.get("metric") != "copies"]
    if scored:
        metric, value = scored[-1].get("metric"), scored[-1].get("value")
        return f"{metric} {float('nan' if value is None else value):.4g}"
    series = run.metrics.get("val/mse")
    return f"val/mse {series.value[-1]:.4g}" if series else ""


if __name__ == "__main__":
    sys.exit(main())
