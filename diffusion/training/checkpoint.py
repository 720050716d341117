"""Checkpoint files: reading them as data, and rebuilding the denoiser that one holds."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion import build
from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser

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


def read(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint of diffusion.train: tensors and primitives, never code.

    Raises UserError for a file that is missing, damaged, or not ours.
    """
    if not path.is_file():
        raise UserError(
            f"ckpt={path}: there is no such file; name a checkpoint such as outputs/…/checkpoints/last.ckpt"
        )
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"ckpt={path}: not a readable checkpoint ({reason}); use another one") from error
    if not isinstance(contents, dict) or not {"config", "state_dict", "global_step", "epoch"} <= contents.keys():
        raise UserError(
            f"ckpt={path}: not a checkpoint of diffusion.train (it holds no configuration); use one of those"
        )
    return contents


def restore(path: str | Path, weights: str = "ema") -> Restored:
    """The denoiser of a checkpoint, in evaluation mode on the CPU.

    Args:
        weights: `ema` for the averaged ones (the raw ones where the run kept no average), `raw` for the trained ones.
    """
    path = Path(path)
    contents = read(path)
    config = build.stranger(contents["config"], path)
    states = {"ema": contents["state_dict"], "raw": contents.get("current_model_state", contents["state_dict"])}
    if weights not in states:
        raise UserError(f"weights={weights}: expected one of {', '.join(states)}")
    if "current_model_state" not in contents:
        weights = "raw"
    network = {k.removeprefix(PREFIX): v for k, v in states[weights].items() if k.startswith(PREFIX)}
    denoiser = build.denoiser(config)
    try:
        denoiser.network.load_state_dict(network)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(f"ckpt={path}: its weights do not fit its own model ({lines[-1].strip()})") from error
    denoiser.requires_grad_(False).eval()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Restored(denoiser, config, path, contents["global_step"], contents["epoch"], weights, sha256)


def find(ckpt: str, folder: Path) -> Path:
    """The file that `ckpt` names: a path, or `last` for this run folder's, else the newest of its neighbours.

    Raises UserError when there is none: a run asked to resume never starts afresh.
    """
    if ckpt != "last":
        return Path(ckpt)
    own = folder / "checkpoints" / "last.ckpt"
    if own.is_file():
        return own
    others = sorted(folder.parent.glob("*/checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime)
    if not others:
        raise UserError(f"ckpt=last: no run under {folder.parent} has a checkpoint; name one, or leave ckpt out")
    return others[-1]
