"""Which checkpoint `ckpt=` means: a path, `last`, or `auto`."""

from pathlib import Path

from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import read
from diffusion.console import console
from diffusion.errors import UserError
from diffusion.runs.record import RunRecord


def find(ckpt: str, folder: Path) -> Path | None:
    """The file that `ckpt` names; None, which means a fresh start, only where `auto` finds no checkpoint at all.

    A path stands for itself. `last` is last.ckpt of this run's folder, or else of the newest run beside it. `auto` is
    the newest checkpoint that is provably whole, of this folder or else of the newest run beside it that is not
    complete; those that it skips are printed with the reason. Runs that are still alive, and the other jobs of a sweep
    (their recipes differ), are not considered.

    Raises UserError when there is none, or with `auto` none that can be read: training never starts over in silence.
    """
    if ckpt not in ("last", "auto"):
        return Path(ckpt)
    run = folder if storage.all_files(folder / "checkpoints") else newest_beside(folder, ckpt == "last")
    if run is None:
        if ckpt == "auto":
            console.print("ckpt=auto: there is no checkpoint yet; starting afresh")
            return None
        raise UserError(
            f"ckpt=last: no run under {folder.parent} that has ended has a checkpoint; name one, or leave ckpt out"
        )
    if ckpt == "last":
        return run / "checkpoints" / "last.ckpt"
    for path in storage.newest_first(run / "checkpoints"):
        try:
            read(path, sealed=True)
        except UserError as error:
            console.print(f"skipped {str(error).removeprefix('ckpt=')}", style="yellow")
        else:
            return path
    raise UserError(f"ckpt=auto: none of the checkpoints in {run / 'checkpoints'} can be read; ckpt=null starts afresh")


def newest_beside(folder: Path, complete: bool) -> Path | None:
    """The run beside `folder` that saved last and is not alive; complete runs count if `complete`."""
    if (folder.parent / "multirun.yaml").exists():
        return None
    saved: dict[Path, int] = {}
    for run in folder.parent.glob("*"):
        files = storage.all_files(run / "checkpoints")
        record = RunRecord(run)
        if not files or (record.state == "complete" and not complete):
            continue
        if record.alive:
            console.print(f"skipped {run}: it is running ({record.owner})", style="yellow")
        else:
            saved[run] = max(file.lstat().st_mtime_ns for file in files)
    return max(saved, key=lambda run: saved[run]) if saved else None
