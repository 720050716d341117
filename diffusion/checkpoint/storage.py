"""Checkpoint files: written atomically, verified when read.

A file is torch's zip archive, which contains a CRC-32 of each of its entries. It is written to a temporary file in the
same folder, flushed to disk and renamed (see `diffusion.files`): whenever the process is killed, the path contains
either the complete old file or the complete new one.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from lightning.fabric.plugins.io import CheckpointIO

from diffusion.errors import UserError, first_line
from diffusion.files import PART, replacing


def save(contents: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint durably, after removing the unfinished files of killed writers in its folder.

    Raises OSError if it cannot be written: the old file is then unchanged, and nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in path.parent.glob(f".*{PART}"):
        part.unlink(missing_ok=True)
    with replacing(path, durable=True) as file:
        try:
            torch.save(dict(contents), file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides the error of the operating system
                raise error.__context__ from None
            raise


def load(path: Path, mapped: bool = False) -> dict[str, Any]:
    """The contents of a checkpoint on the CPU: tensors and primitives, never code. Raises UserError if it is damaged.

    Args:
        mapped: whether tensors are read from the file only when they are used, which must then stay as it is.
    """
    try:
        with ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} in it is not what was written")
        contents: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        return {**contents}
    except Exception as error:  # damaged and hostile files raise many kinds of exceptions
        raise UserError(f"{path}: not a readable checkpoint ({first_line(error)}); use another one") from error


def numbered(folder: Path, step: int) -> Path:
    """step-00001234.ckpt"""
    return folder / f"step-{step:08d}.ckpt"


def step_in_name(file: Path) -> int:
    """The step in the name of a numbered file; −1 for other files."""
    match = re.fullmatch(r"step-(\d+)\.ckpt", file.name)
    return int(match[1]) if match else -1


def numbered_files(folder: Path) -> list[Path]:
    """The step-….ckpt files of a folder, highest step first, because clocks are set back and copies look new."""
    files = [file for file in folder.glob("*") if step_in_name(file) >= 0]
    return sorted(files, key=step_in_name, reverse=True)


def all_files(folder: Path) -> list[Path]:
    """The numbered files, newest first, last.ckpt (the newest) and best.ckpt (a link to one that may be gone)."""
    named = [file for name in ("last", "best") if os.path.lexists(file := folder / f"{name}.ckpt")]
    return numbered_files(folder) + named


class Storage(CheckpointIO):
    """Lightning plugin that saves and loads checkpoints with this module.

    Args:
        contents: those of the file to resume from, when it was checked: training continues from exactly these, even if
            the file has changed meanwhile. They are returned once, and then freed.
    """

    def __init__(self, contents: dict[str, Any] | None = None) -> None:
        self.contents = contents

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        contents, self.contents = self.contents, None
        return load(Path(path)) if contents is None else contents

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
