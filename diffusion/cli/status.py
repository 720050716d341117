"""List the runs in a folder and its sub-folders: state, step, time left, score, time of the last write.

The score is the latest value of the run's first distance or, without one, metric, or else the denoising error. The
states are those that the runs recorded; but `died`: the process is gone. Exit status: 0 regardless of the runs'
states; 2 if the folder does not exist.

--json prints one JSON array instead, with an object for each run: run, state, reason, score (name, value, low, high),
step, total_steps, seconds_left, written. What is not known is null.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from diffusion.base.console import console, count
from diffusion.errors import Arguments
from diffusion.report.index import HEAD, Line, lines_below
from diffusion.report.page import Table


def print_status(folder: Path, as_json: bool = False) -> None:
    """Print a table of the runs, the reasons of those that stopped, and the number of runs in each state; or JSON."""
    lines = lines_below(folder)
    if as_json:
        print(json.dumps([*map(plain, lines)], indent=1))
        return
    if lines:
        Table(HEAD, [line.cells for line in lines]).print(console)
    for line in lines:
        if line.reason:
            console.print(f"{line.name}: {line.reason}")
    states = Counter(line.state for line in lines)
    counts = ", ".join(f"{n} {state}" for state, n in states.items())
    console.print(f"{count(len(lines), 'run')} below {folder}" + (f": {counts}" if counts else ""))
    if states["died"] + states["interrupted"]:
        console.print(f"to resume one: diffusion train hydra.run.dir={folder}/RUN ckpt=auto")
        console.print("to resume a sweep: the same command as before with hydra.sweep.dir=SWEEP")


def plain(line: Line) -> dict[str, Any]:
    """The entry of a run as an object of JSON, which has no NaN and no infinity."""
    score = line.score

    def finite(key: str) -> float | None:
        value = getattr(score, key)
        return value if value is not None and math.isfinite(value) else None

    return {
        "run": str(line.run.folder),
        "state": line.state,
        "reason": line.reason or None,
        "score": score and {"name": score.name} | {key: finite(key) for key in ("value", "low", "high")},
        "step": line.step,
        "total_steps": line.total_steps,
        "seconds_left": line.left,
        "written": line.written.astimezone().isoformat(timespec="seconds"),
    }


main = Arguments("status", __doc__, print_status)
main.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
main.add_argument("--json", action="store_true", dest="as_json", help="one JSON array instead of a table")
