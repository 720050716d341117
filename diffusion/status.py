"""`python -m diffusion.status [FOLDER]`: the runs below a folder: state, step, last score, when it was last heard.

complete, failed (with the reason), interrupted: what the run itself said at its end. running: its process lives. died:
it says that it runs, but its process is gone, or was not heard for long from another machine. not started: there is a
configuration alone.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from diffusion.console import console, duration
from diffusion.report.folder import Run, is_run

BEAT = 30.0  # seconds between the touches of run.json by which a run shows that it lives
SILENCE = 10 * BEAT  # after which a run on another machine is taken for dead
STYLES = {"complete": "green", "running": "cyan", "failed": "red", "died": "red", "interrupted": "yellow"}


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 0, or 2 where there is no such folder."""
    parser = argparse.ArgumentParser(prog="python -m diffusion.status", description="List the runs below a folder.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    folder = parser.parse_args(arguments).folder
    if not folder.is_dir():
        print(f"error: {folder}: no such folder; name one that holds runs, such as outputs", file=sys.stderr)
        return 2
    rows = [row(run, folder) for run in runs(folder)]
    table = Table(box=box.SIMPLE_HEAD, title=f"{len(rows)} runs below {folder}", title_justify="left")
    for name in ("run", "state", "step", "last score", "heard", "reason"):
        table.add_column(name, overflow="fold")
    for cells in rows:
        table.add_row(*cells, style=STYLES.get(cells[1]))
    console.print(table)
    return 0


def runs(folder: Path) -> Iterator[Path]:
    """The folders of runs in `folder`, itself included, in order of their names."""
    if is_run(folder):
        yield folder
    else:
        for inside in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
            yield from runs(inside)


def row(folder: Path, root: Path) -> tuple[str, ...]:
    """One line of the table."""
    run = Run(folder)
    try:
        record, score = run.info, last_score(run)
    except Exception as error:  # a broken file of one run hides no other
        return str(folder.relative_to(root)), "unreadable", "", "", "", str(error)
    steps = f"{record.get('steps', 0)}" + (f" of {record['total_steps']}" if record.get("total_steps") else "")
    heard = duration(max(0.0, time.time() - beat(folder))) + " ago" if record else ""
    return str(folder.relative_to(root)), state(folder, record), steps, score, heard, str(record.get("reason", ""))


def state(folder: Path, record: dict[str, Any]) -> str:
    """What a run says of itself in `record` (its run.json), corrected where it can't speak any more."""
    said = str(record.get("state", "not started"))
    if said != "running":
        return said
    if record.get("host") == platform.node():
        return said if record.get("process") == process(int(record.get("pid", 0))) else "died"
    return said if time.time() - beat(folder) < SILENCE else "died"


def beat(folder: Path) -> float:
    """When the run was last heard."""
    return (folder / "run.json").stat().st_mtime


def process(pid: int) -> str | None:
    """What tells the process `pid` of this machine from a later one of that number; None where there is none."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # it lives, and is another user's
    except (OSError, OverflowError):
        return None
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # its start, in ticks since boot
    except (OSError, IndexError):
        return "alive"


def last_score(run: Run) -> str:
    """`fd_lite0 123.4` of the last samples that were scored, else `val/mse 0.0412`."""
    scored = [record for record in run.scores if record.get("what") == "samples"]
    if scored:
        return f"{scored[-1].get('metric')} {float(scored[-1].get('value') or 'nan'):.4g}"
    series = run.metrics.get("val/mse")
    return f"val/mse {series.value[-1]:.4g}" if series else ""


if __name__ == "__main__":
    sys.exit(main())
