"""The checkpoints of runs: which one `ckpt=` selects, the weights of early steps, and which can be removed."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffusion.base.console import console
from diffusion.base.files import PACKAGE
from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import Restored, read, restore
from diffusion.doors import diffusers_folder, hub, zoo
from diffusion.errors import UserError
from diffusion.metric.precision import set_precision
from diffusion.runs.folder import is_sweep, runs_below
from diffusion.runs.record import FILE

BUNDLED = PACKAGE / "pretrained"  # name -> folder of a run, of which docs/pretrained.py has kept only the weights


def trained(ckpt: str | Path) -> Path:
    """The file that `ckpt` selects to sample from, score or export; `last` is the most recently saved run in outputs/.

    Raises UserError if there is none.
    """
    run = named(ckpt)
    if str(ckpt) == "last":
        run = newest([*runs_below(Path("outputs"))], "in outputs")
    path = of_run(run)
    if str(ckpt) == "last" or (run.is_dir() and path.name == "best.ckpt"):
        console.print(f"ckpt={ckpt}: {path}")
    return path


def opened(ckpt: str | Path, weights: str | float) -> Restored:
    """Restore the model that `ckpt` selects; from here on, this process computes products as its run did.

    (On a GPU, the precision of products changes the last digits of a sample.)
    """
    restored = restore(trained(ckpt), weights)
    set_precision(restored.config.get("matmul_precision", "high"))
    return restored


def named(ckpt: str | Path) -> Path:
    """The path that `ckpt` is, or that of a download from the Hub or of the zoo.

    It is the folder of a bundled model, such as `demo`, if there is none of this name here.
    """
    for place in (hub, zoo):
        if place.is_address(ckpt):
            return place.fetched(str(ckpt))
    return bundled if (bundled := BUNDLED / ckpt).is_dir() and not Path(ckpt).exists() else Path(ckpt)


def of_run(path: Path) -> Path:
    """Resolve a path to a checkpoint. For a run's folder: its last.ckpt, otherwise its newest checkpoint or weights.

    A file or a diffusers folder is returned unchanged. For a checkpoint that is gone because its run kept only the
    weights, it is the file of these. Raises UserError, with what is there, for another one that is gone, and for a
    folder without a checkpoint.
    """
    if path.suffix == ".ckpt" and not os.path.lexists(path) and (there := saved(path.parent)):
        if (weights := path.with_suffix(storage.SUFFIX)) not in there:
            raise UserError(
                f"{path}: no such file; its run has kept {', '.join(file.name for file in there)}", key="ckpt"
            )
        console.print(f"{path.name}: the run has kept only its weights, {weights}")
        return weights
    if not path.is_dir() or (path / diffusers_folder.INDEX).is_file():
        return path
    files = saved(path)
    if not files:
        raise UserError(
            f"{path}: no checkpoint in this folder; name a run that has saved one, or a checkpoint", key="ckpt"
        )
    return next((file for file in files if file.name == "last.ckpt"), files[0])


def find(ckpt: str, folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that `ckpt` selects to resume from, and its contents; None if `auto` finds none at all.

    A path is resolved by `of_run`, as is the folder of `last`: this run's, otherwise that of the newest run beside it.
    `auto` is the newest checkpoint in this folder that can be read; skipped ones are printed with the reason.

    Raises UserError if there is none or, with `auto`, none that can be read: training never silently starts over.
    """
    files = storage.all_files(folder / "checkpoints")
    if ckpt in ("last", "auto") and not files and saved(folder):
        raise UserError(
            f"{ckpt}: only the weights of {folder} were kept, from which training cannot resume; set another "
            "hydra.run.dir, or discard them: ckpt=null trains from scratch",
            key="ckpt",
        )
    if ckpt == "auto":
        for path in files:
            try:
                return path, read(path, to_train=True)
            except UserError as error:
                console.print(f"skipped {error}", style="yellow")
        if files:
            raise UserError(f"auto: no checkpoint in {folder} can be read; ckpt=null starts from scratch", key="ckpt")
        console.print(f"ckpt=auto: no checkpoint to resume from in {folder}; starting from the beginning")
        return None
    run = named(ckpt)
    if ckpt == "last":  # the other jobs of a sweep have other recipes
        beside = [] if is_sweep(folder.parent) else [run for run in folder.parent.glob("*") if run != folder]
        run = folder if files else newest(beside, f"in {folder.parent}")
    path = of_run(run)
    return path, read(path, to_train=True)


def saved(run: Path) -> list[Path]:
    """The checkpoints of a run or of a folder of checkpoints, or the exported weights if only these were kept."""
    folder = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    weights = folder.glob(f"*{storage.SUFFIX}") if folder.name == "checkpoints" else ()
    return storage.all_files(folder) or sorted(weights)


def newest(runs: list[Path], where: str) -> Path:
    """The most recently saved of these runs; a newer one without a checkpoint is named. UserError if none is saved."""
    times = {run: max(file.lstat().st_mtime_ns for file in files) for run in runs if (files := saved(run))}
    if not times:
        raise UserError(f"last: no run {where} has a checkpoint; name a run's folder, or a checkpoint", key="ckpt")
    found = max(times, key=lambda run: times[run])
    began = {file.stat().st_mtime_ns: run for run in runs if run not in times and (file := run / FILE).is_file()}
    if began and max(began) > times[found]:
        console.print(f"ckpt=last: {began[max(began)]} is newer, but has saved no checkpoint", style="yellow")
    return found


def run_folder(path: Path) -> Path:
    """The folder of the run that a checkpoint or a file of early weights belongs to; of another file, its folder."""
    return next((folder.parent for folder in path.parents[:2] if folder.name == "checkpoints"), path.parent)


def kept(checkpoints: Path, step: int) -> Path | None:
    """The early weights of a step, otherwise the checkpoint of that step; None if there is neither."""
    files = (storage.early_file(checkpoints, step), storage.numbered(checkpoints, step))
    return next((file for file in files if file.is_file()), None)


def at_step(checkpoints: Path, step: int) -> Path:
    """Like `kept`, but raises UserError if there is neither."""
    if (found := kept(checkpoints, step)) is None:
        steps = ", ".join(str(storage.step_in_name(file)) for file in storage.numbered_files(checkpoints)) or "none"
        raise UserError(f"guidance.step={step}: {checkpoints} has no weights of this step; it has those of {steps}")
    return found


def by_worth(folder: Path) -> list[Path]:
    """The checkpoints of a run: best.ckpt (there is none if no validation was finite), last.ckpt, and the others."""
    files = storage.all_files(folder / "checkpoints")
    return sorted(files, key=lambda file: (file.name != "best.ckpt", file.name != "last.ckpt"))


def superfluous(folder: Path, weights: bool) -> list[Path]:
    """The removable checkpoints of a run: all but the first `by_worth`; with `weights`, all, and saved averages."""
    files = by_worth(folder)
    return [*files, *storage.snapshots(folder / "checkpoints").values()] if weights else files[1:]


def freed(files: Iterable[Path]) -> int:
    """The bytes freed by removing these files. A file with hard links elsewhere frees nothing."""
    status = [file.lstat() for file in files]
    names = Counter(each.st_ino for each in status)
    return sum({each.st_ino: each.st_size for each in status if names[each.st_ino] == each.st_nlink}.values())


def prune(folder: Path, weights: bool) -> int:
    """Remove the superfluous checkpoints of a complete run and return the number of bytes freed.

    Nothing is removed before what stays has been read. With `weights`, these are the weights of the last checkpoint
    (the average, if there is one), which are first written to last.safetensors (best.safetensors if only best.ckpt is
    left) and are enough to sample, but not to train. Raises UserError if what stays cannot be read, or if that file
    already holds another network.
    """
    files = superfluous(folder, weights)
    gain = freed(files)
    if weights and files:
        model = restore(of_run(folder))
        file = model.path.with_suffix(storage.SUFFIX)
        if not file.is_file():
            storage.export(file, model.denoiser.network.state_dict(), model.about)
        if restore(file).source["network_hash"] != model.source["network_hash"]:
            raise UserError(f"{file}: it holds other weights than {model.path}; nothing was removed; move it")
        gain -= file.stat().st_size
    elif files:
        read(by_worth(folder)[0])
    for old in files:
        old.unlink()
    return gain
