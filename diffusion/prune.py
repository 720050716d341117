"""List the checkpoints of complete runs that can be removed, and the space this frees; with --yes, remove them.

All runs in a folder and its sub-folders are listed. Each keeps its best.ckpt or, with --weights, only weights:
last.safetensors (best.safetensors if only best.ckpt was kept). These can be sampled and scored, but not trained
further. Runs that are active or not complete are never changed.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

from rich.filesize import decimal

from diffusion.console import console, count
from diffusion.errors import Arguments, UserError
from diffusion.files import lock
from diffusion.runs.folder import command_of, runs_below
from diffusion.runs.importing import few_metrics
from diffusion.runs.record import LOCK, RunRecord


def main(arguments: list[str] | None = None) -> int:
    """List or remove checkpoints. Returns the exit status: 0, or 2 with one line on stderr."""
    parser = Arguments("prune", __doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--weights", action="store_true", help="keep only the weights, a quarter of a checkpoint")
    parser.add_argument("--yes", action="store_true", help="remove them; without this, nothing is changed")
    return parser.run(prune, arguments)


def prune(folder: Path, weights: bool, yes: bool) -> None:
    """Print the runs with removable checkpoints, and remove these if `yes`."""
    few_metrics()
    from diffusion.checkpoint import find  # imports torch, so only when needed

    runs, total = 0, 0
    for path in (path for path in runs_below(folder) if command_of(path) == "train"):
        try:
            held = lock(path / LOCK) if yes else None
        except BlockingIOError:
            console.print(f"{path}: skipped: it is running")
            continue
        with held or nullcontext():
            files = find.superfluous(path, weights)
            if RunRecord(path).content.get("state") != "complete" or not files:
                continue
            try:
                gain = find.prune(path, weights) if yes else find.freed(files)
            except UserError as error:
                console.print(f"{path}: skipped: {error}", style="yellow")
                continue
        console.print(f"{path}: {count(len(files), 'file')}, {decimal(gain)}")
        runs, total = runs + 1, total + gain
    less = " less the weights, which are kept," if weights and not yes else ""
    done = "freed" if yes else "can be freed; --yes removes the files"
    console.print(f"{count(runs, 'complete run')}: {decimal(total)}{less} {done}")


if __name__ == "__main__":
    sys.exit(main())
