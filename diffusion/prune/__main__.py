"""`python -m diffusion.prune [FOLDER]`: free disk space by removing checkpoints that complete runs do not need."""

import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from rich import box
from rich.filesize import decimal
from rich.table import Table

from diffusion.console import console, count
from diffusion.errors import Arguments, UserError, exit_status
from diffusion.files import lock
from diffusion.runs.folder import command_of, runs_below
from diffusion.runs.importing import importing
from diffusion.runs.record import LOCK, RunRecord

ABOUT = """\
List the checkpoints of complete runs, in a folder and its sub-folders, that can be removed, and the space this frees;
with --yes, remove them. Each run keeps its best.ckpt or, with --weights, only weights: last.safetensors
(best.safetensors if only best.ckpt was kept). These can be sampled and scored, but not trained further. Runs that are
active or not complete are never changed.
"""


def main(arguments: list[str] | None = None) -> int:
    """List or remove checkpoints. Returns the exit status: 0, or 2 with one line on stderr."""
    parser = Arguments("prune", ABOUT)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--weights", action="store_true", help="keep only the weights, a quarter of a checkpoint")
    parser.add_argument("--yes", action="store_true", help="remove them; without this, nothing is changed")
    asked = parser.parse_args(arguments)
    return exit_status(lambda: run(asked.folder, asked.weights, asked.yes), "check the folder's permissions")


def run(folder: Path, weights: bool, really: bool) -> None:
    """Print a table of the runs with removable checkpoints, and remove these if `really`.

    Raises UserError if the folder does not exist.
    """
    with importing():
        from diffusion.checkpoint import pruning  # imports torch, so only when needed

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; choose a folder with runs, such as outputs")
    left: Counter[str] = Counter()
    table, total = Table("run", "files", "frees", box=box.SIMPLE_HEAD, pad_edge=False), 0
    for path in runs_below(folder):
        if command_of(path) != "train":
            continue
        if (state := RunRecord(path).state) != "complete":
            left[state] += 1
            continue
        files = pruning.superfluous(path, weights)
        if not files:
            continue
        gain = pruning.freed(files)
        if really:
            try:
                gain = _prune(path, weights)
            except UserError as error:
                console.print(f"{path}: skipped: {error}", style="yellow")
                continue
        total += gain
        table.add_row(str(path.relative_to(folder)), str(len(files)), decimal(gain))
    if table.row_count:
        console.print(table)
        less = " less the weights, which are kept," if weights and not really else ""
        done = "freed" if really else "can be freed"
        console.print(f"{count(table.row_count, 'run')}: {decimal(total)}{less} {done}")
    else:
        console.print("nothing was removed" if really else f"complete runs in {folder}: nothing to remove")
    if left:
        console.print("skipped: " + ", ".join(f"{n} {state}" for state, n in left.items()))
    if table.row_count and not really:
        console.print("nothing was removed; --yes removes them")


def _prune(folder: Path, weights: bool) -> int:
    """Prune a run under its lock and return the bytes freed. Raises UserError if a process is using the run."""
    from diffusion.checkpoint import pruning

    try:
        held = lock(folder / LOCK)
    except BlockingIOError as error:
        raise UserError("a run is alive there; wait until it ends") from error
    with held or nullcontext():
        if RunRecord(folder).content.get("state") != "complete":
            raise UserError("a run is alive there; wait until it ends")
        return pruning.prune(folder, weights)


if __name__ == "__main__":
    sys.exit(main())
