"""List the checkpoints of complete runs that can be removed, and the space this frees; with --yes, remove them.

All runs in a folder and its sub-folders are listed. Each keeps its best.ckpt or, with --weights, only weights:
last.safetensors (best.safetensors if only best.ckpt was kept). These can be sampled and scored, but not trained
further. Runs that are active or not complete are never changed.
"""

from pathlib import Path

from rich.filesize import decimal

from diffusion.base.console import console, count
from diffusion.errors import Arguments, UserError
from diffusion.runs.folder import Run, check_output, runs_below


def prune(folder: Path, weights: bool, yes: bool) -> None:
    """Print the runs with removable checkpoints, and remove these if `yes`."""
    from diffusion.checkpoint import find  # imports torch, so only when needed

    runs, total = 0, 0
    for path in runs_below(folder):
        run, files = Run(path), find.superfluous(path, weights)
        try:
            if run.command != "train" or run.state != "complete" or not files:
                continue
            check_output(path)
            gain = find.prune(path, weights) if yes else find.freed(files)
        except UserError as error:
            console.print(f"{path}: skipped: {error}", style="yellow")
            continue
        console.print(f"{path}: {count(len(files), 'file')}, {decimal(gain)}")
        runs, total = runs + 1, total + gain
    if not runs:
        console.print("no complete run has checkpoints that can be removed")
        return
    done = "freed" if yes else "can be freed, less any weights that are kept; --yes removes the files"
    console.print(f"{count(runs, 'complete run')}: {decimal(total)} {done}")


main = Arguments("prune", __doc__, prune)
main.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
main.add_argument("--weights", action="store_true", help="keep only the weights, a quarter of a checkpoint")
main.add_argument("--yes", action="store_true", help="remove them; without this, nothing is changed")
