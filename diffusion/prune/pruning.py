"""Which checkpoints of a complete run can go: best.ckpt and the averages are kept, or only the last weights."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from diffusion.checkpoint import averages, storage
from diffusion.errors import UserError


def superfluous(folder: Path, weights: bool) -> list[Path]:
    """The checkpoints of a run's folder that go: all but best.ckpt or, with `weights`, all, and the snapshots too.

    Without a best.ckpt (where no validation was finite) the last one stays.
    """
    files = storage.all_files(folder / "checkpoints")
    kept = sorted(files, key=lambda file: (file.name != "best.ckpt", file.name != "last.ckpt"))[:1]
    if weights:
        return [*files, *averages.snapshots(folder / "checkpoints").values()]
    return [file for file in files if file not in kept]


def freed(files: Iterable[Path]) -> int:
    """Bytes that are free when these files are gone: a file that has further names (hard links) stays."""
    status = [file.lstat() for file in files]
    names = Counter((each.st_dev, each.st_ino) for each in status)
    return sum({(s.st_dev, s.st_ino): s.st_size for s in status if names[s.st_dev, s.st_ino] == s.st_nlink}.values())


def prune(folder: Path, weights: bool) -> int:
    """Remove what is superfluous in a complete run's folder; the bytes that this frees.

    With `weights`, those of the last checkpoint (averaged, where they were) are written first as last.safetensors, from
    which one can sample, but not train. Nothing is removed unless that file reads back as the same network.
    """
    files = superfluous(folder, weights)
    if not files:
        return 0
    gain = freed(files)
    if weights:
        from diffusion.checkpoint import exported, find, restore

        model = restore.restore(find.of_run(folder), "ema")
        file = model.path.with_suffix(exported.SUFFIX)
        state = model.denoiser.network.state_dict()
        exported.write(file, state, model.config, model.step, model.epoch, model.weights, model.labels)
        read = restore.restore(file, "ema").denoiser.network.state_dict()
        if any(not read[name].equal(value) for name, value in state.items()):
            raise UserError(f"{file}: it does not read back as it was written; nothing was removed, try again")
        gain -= file.stat().st_size
    for old in files:
        old.unlink()
    if weights and (snapshots := folder / "checkpoints" / averages.FOLDER).is_dir():
        snapshots.rmdir()
    return gain
