"""Find the checkpoint selected by `ckpt=`: a file, a run's folder, `last`, or `auto`."""

from pathlib import Path
from typing import Any, NamedTuple, get_args

from diffusion.checkpoint import diffusers_folder, storage
from diffusion.checkpoint.restore import Restored, read, restore
from diffusion.config.schema import Precision
from diffusion.console import console, count
from diffusion.errors import UserError
from diffusion.metric.precision import set_precision
from diffusion.runs.folder import Run, is_sweep, jobs_of, runs_below
from diffusion.runs.record import RunRecord


class Found(NamedTuple):
    """A checkpoint to resume from, already read and checked."""

    path: Path
    contents: dict[str, Any]


def trained(ckpt: str | Path) -> Path:
    """The file that `ckpt` selects to sample from, score or export; `last` is the most recently saved run in outputs/.

    Raises UserError if there is none.
    """
    if str(ckpt) != "last":
        path = of_run(Path(ckpt))
        if path.name == "best.ckpt" and Path(ckpt).is_dir():
            console.print(f"{ckpt}: it has no last.ckpt; this is best.ckpt, the checkpoint with the lowest val/mse")
        return path
    runs = runs_below(Path("outputs")) if Path("outputs").is_dir() else ()
    if not (saved := {run: time for run in runs if (time := _saved(run, weights=True))}):
        raise UserError("ckpt=last: no run in outputs has a checkpoint; name a run's folder, or a checkpoint")
    path = of_run(max(saved, key=lambda run: saved[run]))
    console.print(f"ckpt=last: {path}")
    return path


def opened(ckpt: str | Path, weights: str | float) -> Restored:
    """Restore the model that `ckpt` selects; from here on, this process computes products as its run did.

    (On a GPU, the precision of products changes the last digits of a sample.)
    """
    restored = restore(trained(ckpt), weights)
    set_precision(precision_of(restored))
    return restored


def precision_of(restored: Restored) -> str:
    """The `matmul_precision` of a model's run; `high` if its file has none."""
    precision: Any = restored.config.get("matmul_precision")  # from a file
    return precision if precision in get_args(Precision) else "high"


def of_run(path: Path) -> Path:
    """Resolve a path to a checkpoint. For a run's folder: its last.ckpt, otherwise its newest checkpoint.

    If only the weights were kept, the path resolves to these. A file or a diffusers folder is returned unchanged.
    Raises UserError for any other folder without a checkpoint.
    """
    if not path.is_dir():
        return path
    if diffusers_folder.is_folder(path):
        return path
    own = path / "checkpoints"
    files = storage.all_files(own) or storage.all_files(path) or storage.weights_only(own)
    if not files and (path / "run.json").is_file() and RunRecord(path).state != "complete":
        raise UserError(
            f"ckpt={path}: this run has not saved a checkpoint; wait for its first validation, or resume it"
        )
    if not files:
        runs = [run.folder for run in jobs_of(path) if _saved(run.folder, weights=True)]
        example = f", such as {runs[0]} ({count(len(runs), 'run')} here)" if runs else ""
        raise UserError(f"ckpt={path}: no checkpoint in this folder; name a run's folder, or a checkpoint{example}")
    return next((file for file in files if file.name == "last.ckpt"), files[0])


def find(ckpt: str, folder: Path, name: str) -> Found | None:
    """The checkpoint that `ckpt` selects to resume from; None, a fresh start, only if `auto` finds none at all.

    A path is resolved by `of_run`, as is the folder of `last`: this run's, otherwise that of the newest sibling run.
    `auto` is the newest checkpoint that can be read, in this folder, otherwise in the newest sibling run that is not
    complete; skipped checkpoints are printed with the reason. Runs that are still alive or have another `name`, and the
    other jobs of a sweep (their recipes differ), are not considered.

    Raises UserError if there is none or, with `auto`, none that can be read: training never silently starts over.
    """
    if ckpt not in ("last", "auto"):
        return _read(of_run(Path(ckpt)))
    if storage.weights_only(folder / "checkpoints"):
        raise UserError(
            f"ckpt={ckpt}: only the weights of {folder} were kept, and training cannot resume from them; set another "
            "hydra.run.dir, or discard them: ckpt=null trains from scratch"
        )
    run = folder if storage.all_files(folder / "checkpoints") else newest_beside(folder, ckpt == "last", name)
    if run is None:
        if ckpt == "auto":
            console.print("ckpt=auto: there is no checkpoint yet; starting from scratch")
            return None
        others = sorted(f"{other.name} (name={_name(other)})" for other in folder.parent.glob("*") if _saved(other))
        raise UserError(
            f"ckpt=last: no finished run named {name} in {folder.parent} has a checkpoint; "
            + (f"there are {', '.join(others)}; " if others else "")
            + "choose one, ckpt=RUN, or remove ckpt"
        )
    if ckpt == "last":
        return _read(of_run(run))
    for path in storage.newest_first(run / "checkpoints"):
        try:
            return _read(path)
        except UserError as error:
            console.print(f"skipped {str(error).removeprefix('ckpt=')}", style="yellow")
    raise UserError(
        f"ckpt=auto: none of the checkpoints in {run / 'checkpoints'} can be read; ckpt=null starts from scratch"
    )


def _read(path: Path) -> Found:
    return Found(path, read(path))


def newest_beside(folder: Path, complete: bool, name: str) -> Path | None:
    """The most recently saved sibling run of this name that is not alive. Complete runs count only if `complete`."""
    if is_sweep(folder.parent):
        return None
    saved: dict[Path, int] = {}
    for run in folder.parent.glob("*"):
        record, time = RunRecord(run), _saved(run)
        if not time or (record.state == "complete" and not complete) or _name(run) not in (name, None):
            continue
        if record.alive:
            console.print(f"skipped {run}: it is running ({record.owner})", style="yellow")
        else:
            saved[run] = time
    return max(saved, key=lambda run: saved[run]) if saved else None


def _saved(run: Path, weights: bool = False) -> int:
    """Time in ns at which the newest checkpoint of a run (or with `weights`, exported file) was written; 0 if none."""
    files = storage.all_files(run / "checkpoints") + (storage.weights_only(run / "checkpoints") if weights else [])
    return max((file.lstat().st_mtime_ns for file in files), default=0)


def _name(run: Path) -> str | None:
    """The `name` in a run's configuration; None if unknown."""
    try:
        return Run(run).config.get("name")
    except UserError:
        return None
