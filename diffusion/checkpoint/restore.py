"""Read a checkpoint as data, and rebuild its denoiser."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.checkpoint import averages, diffusers_folder, exported, storage
from diffusion.config.build import OPTIONAL_PARTS, PARTS, Facts, check_targets, make, model_of, plain_config
from diffusion.errors import UserError
from diffusion.files import tensor_digest
from diffusion.model.network import to_channels_last
from diffusion.pixels import height_width
from diffusion.process.denoiser import Denoiser
from diffusion.process.prediction import Prediction
from diffusion.process.schedule import Schedule

PREFIX = "denoiser.network."  # prefix of the network's weights in a checkpoint
REQUIRED = {"config": str, "state_dict": dict, "global_step": int, "epoch": int}  # what a checkpoint must contain


@dataclass(frozen=True)
class Restored:
    """A trained denoiser in evaluation mode, and its provenance."""

    denoiser: Denoiser
    config: dict[str, Any]  # what its run was asked for
    facts: Facts
    path: Path
    step: int
    epoch: int
    weights: str  # ema or raw; ema 0.08 for a post-hoc average of this length
    images: Mapping[str, str]  # split -> hash of its images at training time; empty if not in the file
    labels: Mapping[str, int]  # class -> number of training images, ordered by class index; empty without labels

    @cached_property
    def source(self) -> dict[str, Any]:
        """The weights of this model, as recorded in its scores."""
        return {
            "weights": self.weights,
            "step": self.step,
            "checkpoint": {"path": str(self.path), "sha256": file_hash(self.path)},
            "network_hash": network_hash(self.denoiser.network),
        }

    @property
    def about(self) -> dict[str, str]:
        """The metadata of this model when it is exported."""
        return exported.metadata(self.config, self.facts, self.step, self.epoch, self.weights, self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that it was trained on."""
        data = self.config["data"]
        return int(self.model.get("in_channels", data.get("channels", 3))), *height_width(data["resolution"])

    @property
    def model(self) -> dict[str, Any]:
        """The configuration of the network, with all its arguments."""
        return model_of(self.config, self.facts)

    @property
    def label_dropout(self) -> float:
        """The fraction of training images that were shown without their label."""
        return float(self.config.get("label_dropout", 0))

    @property
    def matmul_precision(self) -> str:
        """The precision in which its run computed products."""
        return str(self.config.get("matmul_precision", "high"))


def read(path: Path, to_train: bool = False) -> dict[str, Any]:
    """The contents of a checkpoint, or of an exported file or a diffusers folder in the form of a checkpoint.

    Raises UserError if they cannot be read, or have no training state although it is needed `to_train`.
    """
    if not os.path.lexists(path):
        raise UserError(f"ckpt={path}: no such file; choose a checkpoint such as outputs/…/checkpoints/last.ckpt")
    folder = diffusers_folder.is_folder(path)
    if to_train and (folder or path.suffix == exported.SUFFIX):
        raise UserError(f"ckpt={path}: an exported model has no training state; start from its weights: init=…")
    if folder:
        return diffusers_folder.read(path, PREFIX)
    if path.suffix == exported.SUFFIX:
        return exported.read(path, PREFIX)
    contents = storage.load(path)
    for key, kind in REQUIRED.items():
        if not isinstance(contents.get(key), kind):
            raise UserError(f"ckpt={path}: not a checkpoint of diffusion.train (it has no {key}); use one of those")
    return contents


def what_changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Differences from a checkpoint's `images`, in words: `the images of train and val`, `the labels`, or empty."""
    changed = [name for name, key in before.items() if now.get(name) != key]
    splits = " and ".join(name for name in changed if name != "labels")
    return " and ".join([f"the images of {splits}"] * bool(splits) + ["the labels"] * ("labels" in changed))


def file_hash(path: Path) -> str:
    """The first 16 digits of the SHA-256 of a file, or of the weights in a diffusers folder."""
    with (path / diffusers_folder.WEIGHTS if path.is_dir() else path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def network_hash(network: nn.Module) -> str:
    """The first 16 digits of the SHA-256 of a network's weights as float32.

    The hash is the same during training and after loading from any file, so a network can be identified even if its
    checkpoint is gone. (A checkpoint of half-precision weights restores exactly these weights in float32.)
    """
    state = network.state_dict().items()
    return tensor_digest({name: value.float() if value.is_floating_point() else value for name, value in state})[:16]


def network_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's weights in the state of a training module."""
    return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}


def restore(path: str | Path, weights: str | float = "ema") -> Restored:
    """Load the denoiser of a checkpoint, an exported file or a diffusers folder, on the CPU.

    Args:
        weights: `raw` for the trained weights; `ema` for the averaged weights, or the raw ones if there is no average;
            a number for an average of this length (σ_rel), for a run with ema=power, see `checkpoint.averages`.
    """
    path = Path(path)
    contents = read(path)
    config = plain_config(contents["config"], path)
    for part in (*PARTS, *OPTIONAL_PARTS):
        check_targets(config.get(part), part, path)
    facts: Facts = contents.get("facts", {})
    kind, state = _chosen(contents, path, weights)
    try:
        torch.Size(height_width(config["data"]["resolution"]))  # whole numbers, or an error
        denoiser = build_denoiser(config, facts)
        denoiser.network.load_state_dict(network_weights(state))
    except UserError as error:
        raise UserError(f"ckpt={path}: {error}") from error
    except Exception as error:  # a strange configuration raises many kinds of exceptions
        raise UserError(f"ckpt={path}: its model cannot be built ({' '.join(str(error).split())[-200:]})") from error
    denoiser.requires_grad_(False).eval()
    to_channels_last(denoiser.network)  # as in training; faster
    step, images, labels = contents["global_step"], contents.get("images", {}), contents.get("labels", {})
    return Restored(denoiser, config, facts, path, step, contents["epoch"], kind, images, labels)


def _chosen(contents: Mapping[str, Any], path: Path, weights: str | float) -> tuple[str, Mapping[str, Tensor]]:
    """The kind of the chosen weights (see `Restored.weights`), and the state of the module that contains them.

    If a run averages its weights, state_dict has the average, and current_model_state the raw weights.
    """
    averaged, raw = contents["state_dict"], contents.get("current_model_state")
    if not isinstance(weights, str):
        return f"ema {weights:g}", {**averaged, **averages.of_length(contents, path, weights)}
    if weights not in ("ema", "raw"):
        raise UserError(f"weights={weights}: expected ema, raw or a number")
    if weights == "ema" or raw is None:
        return "raw" if raw is None else contents.get("weights", "ema"), averaged
    if not raw:
        raise UserError(f"ckpt={path}: it contains no raw weights; use weights=ema")
    return "raw", raw


def build_denoiser(config: Mapping[str, Any], facts: Facts) -> Denoiser:
    """Build the denoiser of a run's model, schedule and prediction, with newly initialized weights."""
    network: nn.Module = make(model_of(config, facts), "model", nn.Module)
    schedule: Schedule = make(config["schedule"], "schedule", Schedule)
    return Denoiser(network, schedule, make(config["prediction"], "prediction", Prediction))
