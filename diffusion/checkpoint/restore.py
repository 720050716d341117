"""Checkpoint files: reading them as data, and rebuilding the denoiser that one holds."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffusion.checkpoint import exported as exchange
from diffusion.checkpoint import storage
from diffusion.config import build
from diffusion.console import console
from diffusion.errors import UserError
from diffusion.evaluation.test_ledger import network_hash
from diffusion.process.denoiser import Denoiser
from diffusion.runs.record import living

PREFIX = "denoiser.network."


@dataclass(frozen=True)
class Restored:
    """A trained denoiser and where it comes from."""

    denoiser: Denoiser
    config: dict[str, Any]
    path: Path
    step: int
    epoch: int
    weights: str  # "ema" or "raw"
    sha256: str  # of the file, 16 digits

    @cached_property
    def told(self) -> dict[str, Any]:
        """What a record says of the weights."""
        return {
            "weights": self.weights,
            "step": self.step,
            "checkpoint": {"path": str(self.path), "sha256": self.sha256},
            "network_hash": network_hash(self.denoiser.network),
        }


class Resumed(NamedTuple):
    """The checkpoint that a run goes on from, and what must fit it."""

    path: Path
    step: int
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]  # of the network's weights


def resumed(ckpt: str | None, folder: Path) -> Resumed | None:
    """The checkpoint that `ckpt` names, as `find` does; None for a fresh start."""
    path = None if ckpt is None else find(ckpt, folder)
    if path is None:
        return None
    contents = read(path)
    step = int(contents["global_step"])
    console.print(f"going on from {path}, step {step}")
    return Resumed(path, step, build.plain(contents["config"], path), shapes_of(contents["state_dict"]))


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each of the network's weights."""
    return {name: tuple(value.shape) for name, value in weights.items() if name.startswith(PREFIX)}


def read(path: Path, sealed: bool = False) -> dict[str, Any]:
    """The contents of a checkpoint of diffusion.train: tensors and primitives, never code.

    Raises UserError for a file that is missing, damaged, or not ours; and if asked, for one without our checksum.
    """
    if not os.path.lexists(path):
        raise UserError(
            f"ckpt={path}: there is no such file; name a checkpoint such as outputs/…/checkpoints/last.ckpt"
        )
    if path.suffix == exchange.SUFFIX:
        raise UserError(f"ckpt={path}: an exported model holds no state of the training; go on from a checkpoint")
    try:
        contents = storage.load(path, sealed)
    except storage.Damaged as error:
        raise UserError(f"ckpt={path}: not a readable checkpoint: {error}; use another one, or ckpt=auto") from error
    check(contents, path)
    return contents


def check(contents: Mapping[str, Any], path: Path) -> None:
    """UserError unless the contents of a file have a checkpoint's shape, on which what follows relies."""
    if not {"config", "state_dict", "global_step", "epoch"} <= contents.keys():
        raise UserError(
            f"ckpt={path}: not a checkpoint of diffusion.train (it holds no configuration); use one of those"
        )
    sound = {"config": isinstance(contents["config"], str)}
    sound |= {name: type(contents[name]) is int and contents[name] >= 0 for name in ("global_step", "epoch")}
    for name in {"state_dict", "current_model_state"} & contents.keys():
        weights = contents[name]
        sound[name] = isinstance(weights, Mapping) and all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
        )
    if bad := [name for name in sound if not sound[name]]:
        raise UserError(f"ckpt={path}: not a checkpoint of diffusion.train ({bad[0]} is malformed); use one of those")


def restore(path: str | Path, weights: str = "ema") -> Restored:
    """The denoiser of a checkpoint, in evaluation mode on the CPU.

    Args:
        weights: `ema` for the averaged ones (the raw ones where the run kept no average), `raw` for the trained ones.
    """
    path = Path(path)
    contents = exchange.read(path, PREFIX) if path.suffix == exchange.SUFFIX and path.is_file() else read(path)
    config = build.stranger(contents["config"], path)
    build.check_parts(config, path)
    states = {"ema": contents["state_dict"], "raw": contents.get("current_model_state", contents["state_dict"])}
    if weights not in states:
        raise UserError(f"weights={weights}: expected one of {', '.join(states)}")
    if not states[weights]:
        raise UserError(
            f"ckpt={path}: it holds no {weights} weights; use weights={'ema' if weights == 'raw' else 'raw'}"
        )
    if "current_model_state" not in contents:
        weights = "raw"
    network = {k.removeprefix(PREFIX): v for k, v in states[weights].items() if k.startswith(PREFIX)}
    try:
        denoiser = build.denoiser(config)
        denoiser.network.load_state_dict(network)
    except UserError as error:
        raise UserError(f"ckpt={path}: {error}") from error
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(f"ckpt={path}: its weights do not fit its own model ({lines[-1].strip()})") from error
    denoiser.requires_grad_(False).eval()
    denoiser.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as it was trained; faster
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Restored(denoiser, config, path, contents["global_step"], contents["epoch"], weights, sha256)


def find(ckpt: str, folder: Path) -> Path | None:
    """The file that `ckpt` names.

    A path is taken as it is, and so is `last`: last.ckpt of this run folder, else of the newest of its neighbours.
    `auto` is the newest checkpoint that is sure to be whole, of this folder, else of the newest neighbour that is not
    complete; it prints which it skipped, and why. A neighbour that is running is left alone. None, for a fresh start,
    only where `auto` finds no checkpoint at all. The jobs of a sweep are no neighbours: their recipes differ.

    Raises UserError when there is none, or with `auto` none that can be read: training never begins anew in silence.
    """
    if ckpt not in ("last", "auto"):
        return Path(ckpt)
    found = folder if storage.all_files(folder / "checkpoints") else newest_neighbour(folder, ckpt == "last")
    if found is None:
        if ckpt == "auto":
            console.print("ckpt=auto: there is no checkpoint yet; starting afresh")
            return None
        raise UserError(
            f"ckpt=last: no run under {folder.parent} that has ended has a checkpoint; name one, or leave ckpt out"
        )
    if ckpt == "last":
        return found / "checkpoints" / "last.ckpt"
    for path in storage.newest_first(found / "checkpoints"):
        try:
            read(path, sealed=True)
        except UserError as error:
            console.print(f"skipped {str(error).removeprefix('ckpt=')}", style="yellow")
        else:
            return path
    raise UserError(
        f"ckpt=auto: none of the checkpoints in {found / 'checkpoints'} can be read; ckpt=null starts afresh"
    )


def newest_neighbour(folder: Path, complete: bool) -> Path | None:
    """The run beside `folder` that saved last; complete ones count if asked, and none that still lives."""
    if (folder.parent / "multirun.yaml").exists():
        return None
    saved = {
        run: max(file.lstat().st_mtime_ns for file in files)
        for run in folder.parent.glob("*")
        if (files := storage.all_files(run / "checkpoints")) and (complete or not is_complete(run))
    }
    for run in [*saved]:
        if who := living(run):
            console.print(f"skipped {run}: it is running ({who})", style="yellow")
            del saved[run]
    return max(saved, key=lambda run: saved[run]) if saved else None


def is_complete(run: Path) -> bool:
    """Whether a run ended well, as its run.json says."""
    try:
        return bool(json.loads((run / "run.json").read_text())["state"] == "complete")
    except (OSError, ValueError, KeyError, TypeError):
        return False
