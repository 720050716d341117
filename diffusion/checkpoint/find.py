"""Find the checkpoint selected by `ckpt=`: a file, a run's folder, `last`, or `auto`."""

from pathlib import Path
from typing import Any

from diffusion.checkpoint import diffusers_folder, storage
from diffusion.checkpoint.restore import Restored, read, restore
from diffusion.console import console, count
from diffusion.errors import UserError
from diffusion.metric.precision import set_precision
from diffusion.runs.folder import is_sweep, jobs_of, runs_below


def trained(ckpt: str | Path) -> Path:
    """The file that `ckpt` selects to sample from, score or export; `last` is the most recently saved run in outputs/.

    Raises UserError if there is none.
    """
    if str(ckpt) == "last":
        run = newest(list(runs_below(Path("outputs")))) if Path("outputs").is_dir() else None
        if run is None:
            raise UserError("ckpt=last: no run in outputs has a checkpoint; name a run's folder, or a checkpoint")
        path = of_run(run)
        console.print(f"ckpt=last: {path}")
        return path
    path = of_run(Path(ckpt))
    if path.name == "best.ckpt" and Path(ckpt).is_dir():
        console.print(f"{ckpt}: it has no last.ckpt; this is best.ckpt, the checkpoint with the lowest val/mse")
    return path


def opened(ckpt: str | Path, weights: str | float) -> Restored:
    """Restore the model that `ckpt` selects; from here on, this process computes products as its run did.

    (On a GPU, the precision of products changes the last digits of a sample.)
    """
    restored = restore(trained(ckpt), weights)
    set_precision(restored.matmul_precision)
    return restored


def of_run(path: Path) -> Path:
    """Resolve a path to a checkpoint. For a run's folder: its last.ckpt, otherwise its newest checkpoint or weights.

    A file or a diffusers folder is returned unchanged. Raises UserError for any other folder without a checkpoint.
    """
    if not path.is_dir() or diffusers_folder.is_folder(path):
        return path
    files = saved(path) or storage.all_files(path)
    if not files:
        runs = [run.folder for run in jobs_of(path) if saved(run.folder)]
        example = f", such as {runs[0]} ({count(len(runs), 'run')} here)" if runs else ""
        raise UserError(
            f"ckpt={path}: no checkpoint in this folder; name a run that has saved one, or a checkpoint{example}"
        )
    return next((file for file in files if file.name == "last.ckpt"), files[0])


def find(ckpt: str, folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that `ckpt` selects to resume from, and its contents; None if `auto` finds none at all.

    A path is resolved by `of_run`, as is the folder of `last`: this run's, otherwise that of the newest run beside it.
    `auto` is the newest checkpoint in this folder that can be read; skipped ones are printed with the reason.

    Raises UserError if there is none or, with `auto`, none that can be read: training never silently starts over.
    """
    files, path = storage.all_files(folder / "checkpoints"), Path(ckpt)
    if ckpt in ("last", "auto") and not files and saved(folder):
        raise UserError(
            f"ckpt={ckpt}: only the weights of {folder} were kept, and training cannot resume from them; set another "
            "hydra.run.dir, or discard them: ckpt=null trains from scratch"
        )
    if ckpt == "auto":
        for path in files:
            try:
                return path, read(path, to_train=True)
            except UserError as error:
                console.print(f"skipped {error}", style="yellow")
        if files:
            raise UserError(f"ckpt=auto: no checkpoint in {folder} can be read; ckpt=null starts from scratch")
        console.print("ckpt=auto: there is no checkpoint yet; starting from scratch")
        return None
    if ckpt == "last":
        beside = [] if is_sweep(folder.parent) else [*folder.parent.glob("*")]  # other jobs have other recipes
        run = folder if files else newest(beside)
        if run is None:
            raise UserError(f"ckpt=last: no run in {folder.parent} has a checkpoint; name one, or remove ckpt")
        path = run
    path = of_run(path)
    return path, read(path, to_train=True)


def saved(run: Path) -> list[Path]:
    """The checkpoints of a run, or its exported weights if only these were kept."""
    return storage.all_files(run / "checkpoints") or sorted((run / "checkpoints").glob("*.safetensors"))


def newest(runs: list[Path]) -> Path | None:
    """The most recently saved of these runs; None if none has a checkpoint or weights."""
    times = {run: max(file.lstat().st_mtime_ns for file in files) for run in runs if (files := saved(run))}
    return max(times, key=lambda run: times[run]) if times else None
