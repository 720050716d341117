"""The weights of a run at an early step: the weak model for autoguidance (`guidance.step`).

checkpoints/early/step-00001234.safetensors is an exported file of the averaged weights. It is kept when checkpoints are
removed.
"""

from pathlib import Path

from diffusion.checkpoint import exported, storage
from diffusion.errors import UserError

FOLDER = "early"  # subfolder of the checkpoints' folder


def file_of(checkpoints: Path, step: int) -> Path:
    """The file of a step, in a folder of checkpoints."""
    return (checkpoints / FOLDER / storage.numbered(checkpoints, step).name).with_suffix(exported.SUFFIX)


def run_of(path: Path) -> Path:
    """The folder of the run that a checkpoint or a file of early weights belongs to; of another file, its folder."""
    folder = path.parent.parent if path.parent.name == FOLDER else path.parent
    return folder.parent if folder.name == "checkpoints" else folder


def kept(checkpoints: Path, step: int) -> Path | None:
    """The file of a step, otherwise the checkpoint of that step; None if there is neither."""
    files = (file_of(checkpoints, step), storage.numbered(checkpoints, step))
    return next((file for file in files if file.is_file()), None)


def find(checkpoints: Path, step: int) -> Path:
    """Like `kept`, but raises UserError if there is neither."""
    if (found := kept(checkpoints, step)) is None:
        steps = ", ".join(str(storage.step_in_name(file)) for file in storage.numbered_files(checkpoints)) or "none"
        raise UserError(f"guidance.step={step}: {checkpoints} has no weights of this step; it has those of {steps}")
    return found
