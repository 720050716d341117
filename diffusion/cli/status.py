"""List the runs in a folder and its sub-folders: state, step, time left, score, time of the last write.

The score is the latest value of the run's first distance or, without one, metric, or else the denoising error. The
states are those that the runs recorded; but `died`: the process is gone. Exit status: 0 regardless of the runs'
states; 2 if the folder does not exist.
"""

from collections import Counter
from pathlib import Path

from diffusion.base.console import console, count
from diffusion.errors import Arguments
from diffusion.report.index import HEAD, lines_below
from diffusion.report.page import Table


def print_status(folder: Path) -> None:
    """Print a table of the runs, the reasons of those that stopped, and the number of runs in each state."""
    lines = lines_below(folder)
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


main = Arguments("status", __doc__, print_status)
main.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
