"""Files of weights: a run's checkpoints, and exported models (safetensors: tensors and text, no executable code).

A checkpoint is torch's zip archive, which contains a CRC-32 of each of its entries. It is written to a temporary file
in the same folder, flushed to disk and renamed (see `diffusion.base.files`): whenever the process is killed, the path
contains either the complete old file or the complete new one.
"""

import json
import os
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from lightning.fabric.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_safetensors
from torch import Tensor

from diffusion.base.files import PART, replace, replacing
from diffusion.errors import UserError, first_line

SUFFIX = ".safetensors"
ABOUT = ("config", "facts", "global_step", "epoch", "labels", "weights")  # of a checkpoint, in an exported file


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
        with torch.serialization.safe_globals([Namespace]):  # the settings in the files of others: values by name
            contents: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        return {**contents}
    except Exception as error:  # damaged and hostile files raise many kinds of exceptions
        if path.suffix == ".pkl":
            raise UserError(
                f"{path}: a pickle is a program, which runs when it is read; those of EDM and EDM2 also contain the "
                "source code of their networks; use a file of weights only"
            ) from error
        raise UserError(f"{path}: not a readable checkpoint ({first_line(error)}); use another one") from error


def numbered(folder: Path, step: int) -> Path:
    """step-00001234.ckpt"""
    return folder / f"step-{step:08d}.ckpt"


def step_in_name(file: Path) -> int:
    """The step in the name of a numbered file; −1 for other files."""
    match = re.fullmatch(r"step-(\d+)", file.stem)
    return int(match[1]) if match else -1


def numbered_files(folder: Path) -> list[Path]:
    """The step-….ckpt files of a folder, highest step first, because clocks are set back and copies look new."""
    return sorted(filter(lambda file: step_in_name(file) >= 0, folder.glob("*.ckpt")), key=step_in_name, reverse=True)


def all_files(folder: Path) -> list[Path]:
    """The numbered files, newest first, last.ckpt (the newest) and best.ckpt (a link to one that may be gone)."""
    named = [file for name in ("last", "best") if os.path.lexists(file := folder / f"{name}.ckpt")]
    return numbered_files(folder) + named


def snapshot(checkpoints: Path, step: int) -> Path:
    """The file of power-function averages after a step, in a folder of checkpoints."""
    return numbered(checkpoints / "averages", step).with_suffix(".pt")


def snapshots(checkpoints: Path) -> dict[int, Path]:
    """step -> file of averages, for all such files in a folder of checkpoints, in order."""
    return {step_in_name(file): file for file in sorted(snapshot(checkpoints, 0).parent.glob("step-*[0-9].pt"))}


def early_file(checkpoints: Path, step: int) -> Path:
    """The file of early weights of a step, in a folder of checkpoints."""
    return numbered(checkpoints / "early", step).with_suffix(SUFFIX)


def export(file: Path, weights: Mapping[str, Tensor], contents: Mapping[str, Any]) -> Path:
    """Write a network's weights, under their names in the network, with what the `contents` of a checkpoint say."""
    if file.suffix != SUFFIX:
        raise UserError(f"{file}: expected a file name that ends in {SUFFIX}")
    about = {key: json.dumps(contents[key]) for key in ABOUT if key in contents}
    tensors = {name: value.contiguous() for name, value in weights.items()}
    replace(file, as_safetensors(tensors, {"format": "diffusion-experiments 1", **about}), durable=True)
    return file


def exported(file: Path, prefix: str) -> dict[str, Any]:
    """Read an exported file in the form of a checkpoint: `prefix` is added to each tensor's name.

    Raises UserError for a file that is damaged or was not written by `export`.
    """
    try:
        with safe_open(str(file), "pt") as opened:
            tensors = {prefix + name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            about = {key: json.loads(text) for key, text in (opened.metadata() or {}).items() if key in ABOUT}
    except (SafetensorError, OSError, AttributeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file}: not a readable file of `diffusion export` ({first_line(error)})", key="ckpt"
        ) from error
    return {"state_dict": tensors, **about}


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
