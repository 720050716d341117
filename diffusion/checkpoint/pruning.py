"""Remove checkpoints of complete runs: best.ckpt and the snapshots of averages are kept, or only the last weights."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from diffusion.checkpoint import averages, exported, storage
from diffusion.checkpoint.find import of_run
from diffusion.checkpoint.restore import restore
from diffusion.errors import UserError


def superfluous(folder: Path, weights: bool) -> list[Path]:
    """The removable checkpoints of a run: all but best.ckpt; with `weights`, all, and the snapshots of averages.

    If there is no best.ckpt (no validation was finite), the last checkpoint is kept.
    """
    files = storage.all_files(folder / "checkpoints")
    if weights:
        return [*files, *averages.snapshots(folder / "checkpoints").values()]
    return sorted(files, key=lambda file: (file.name != "best.ckpt", file.name != "last.ckpt"))[1:]


def freed(files: Iterable[Path]) -> int:
    """The bytes freed by removing these files. A file with hard links elsewhere frees nothing."""
    status = [file.lstat() for file in files]
    names = Counter(each.st_ino for each in status)
    return sum({each.st_ino: each.st_size for each in status if names[each.st_ino] == each.st_nlink}.values())


def prune(folder: Path, weights: bool) -> int:
    """Remove the superfluous checkpoints of a complete run and return the number of bytes freed.

    With `weights`, the weights of the last checkpoint (the average, if there is one) are first written to
    last.safetensors (best.safetensors if only best.ckpt is left), which is enough to sample, but not to train. Nothing
    is removed unless that file reads back as the same network.
    """
    files = superfluous(folder, weights)
    gain = freed(files)
    if weights and files:
        model = restore(of_run(folder))
        file = model.path.with_suffix(exported.SUFFIX)
        if file.is_file() and (kind := restore(file).weights) != model.weights:
            raise UserError(f"{file}: it holds {kind} weights, which this would replace; nothing was removed; move it")
        exported.write(file, model.denoiser.network.state_dict(), model.about)
        if restore(file).source["network_hash"] != model.source["network_hash"]:
            raise UserError(f"{file}: its content is not what was written; nothing was removed; try again")
        gain -= file.stat().st_size
    for old in files:
        old.unlink()
    if weights and (snapshots := folder / "checkpoints" / averages.FOLDER).is_dir():
        snapshots.rmdir()
    return gain
