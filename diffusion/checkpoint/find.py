"""Find the checkpoint selected by `ckpt=`: a file, a run's folder, `last`, or `auto`."""

from pathlib import Path
from typing import Any, NamedTuple, get_args

from diffusion.checkpoint import diffusers_folder, storage
from diffusion.checkpoint.restore import Restored, read, restore
from diffusion.config.schema import Precision
from diffusion.console import console, count
from diffusion.errors import UserError
from diffusion.metric.precision import set_precision
from diffusion.runs.folder import is_sweep, jobs_of, runs_below


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
    run = newest(list(runs_below(Path("outputs")))) if Path("outputs").is_dir() else None
    if run is None:
        raise UserError("ckpt=last: no run in outputs has a checkpoint; name a run's folder, or a checkpoint")
    path = of_run(run)
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
    """Resolve a path to a checkpoint. For a run's folder: its last.ckpt, otherwise its newest checkpoint or weights.

    A file or a diffusers folder is returned unchanged. Raises UserError for any other folder without a checkpoint.
    """
    if not path.is_dir() or diffusers_folder.is_folder(path):
        return path
    files = saved(path / "checkpoints") or storage.all_files(path)
    if not files:
        runs = [run.folder for run in jobs_of(path) if saved(run.folder / "checkpoints")]
        example = f", such as {runs[0]} ({count(len(runs), 'run')} here)" if runs else ""
        raise UserError(
            f"ckpt={path}: no checkpoint in this folder; name a run that has saved one, or a checkpoint{example}"
        )
    return next((file for file in files if file.name == "last.ckpt"), files[0])


def find(ckpt: str, folder: Path) -> Found | None:
    """The checkpoint that `ckpt` selects to resume from; None, a fresh start, only if `auto` finds none at all.

    A path is resolved by `of_run`, as is the folder of `last`: this run's, otherwise that of the newest run beside it.
    `auto` is the newest checkpoint in this folder that can be read; skipped ones are printed with the reason.

    Raises UserError if there is none or, with `auto`, none that can be read: training never silently starts over.
    """
    if ckpt not in ("last", "auto"):
        return _read(of_run(Path(ckpt)))
    own = folder / "checkpoints"
    if storage.weights_only(own):
        raise UserError(
            f"ckpt={ckpt}: only the weights of {folder} were kept, and training cannot resume from them; set another "
            "hydra.run.dir, or discard them: ckpt=null trains from scratch"
        )
    files = storage.all_files(own)
    if ckpt == "last":
        beside = [] if is_sweep(folder.parent) else [*folder.parent.glob("*")]  # other jobs have other recipes
        run = folder if files else newest(beside)
        if run is None:
            raise UserError(
                f"ckpt=last: no run in {folder.parent} has a checkpoint; name one, ckpt=RUN, or remove ckpt"
            )
        return _read(of_run(run))
    if not files:
        console.print("ckpt=auto: there is no checkpoint yet; starting from scratch")
        return None
    for path in files:
        try:
            return _read(path)
        except UserError as error:
            console.print(f"skipped {str(error).removeprefix('ckpt=')}", style="yellow")
    raise UserError(f"ckpt=auto: none of the checkpoints in {own} can be read; ckpt=null starts from scratch")


def _read(path: Path) -> Found:
    return Found(path, read(path))


def saved(checkpoints: Path) -> list[Path]:
    """The checkpoints in a folder, or the exported weights if only these were kept."""
    return storage.all_files(checkpoints) or storage.weights_only(checkpoints)


def newest(runs: list[Path]) -> Path | None:
    """The most recently saved of these runs; None if none has a checkpoint or weights."""
    times = {run: max(f.lstat().st_mtime_ns for f in files) for run in runs if (files := saved(run / "checkpoints"))}
    return max(times, key=lambda run: times[run]) if times else None
