"""Read a checkpoint as data, and rebuild its denoiser, with the weights of a step or an average of any length."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from diffusion.base.console import console, count
from diffusion.base.files import tensor_digest
from diffusion.checkpoint import storage
from diffusion.config import build
from diffusion.config.build import check_targets, make, plain_config
from diffusion.doors import authors, diffusers_folder
from diffusion.errors import UserError
from diffusion.kinds.kind import Kind, Shape
from diffusion.model.network import to_channels_last
from diffusion.process.averaging import Profile, coefficients, gamma_of
from diffusion.process.denoiser import Denoiser
from diffusion.recipe.assemble import assembled, data_size, kind_of
from diffusion.recipe.facts import Facts, read_facts

PREFIX = "denoiser.network."  # prefix of the network's weights in a checkpoint
REQUIRED = {"config": str, "state_dict": dict, "global_step": int, "epoch": int}  # of a checkpoint
KEPT = (*build.PARTS, *build.OPTIONAL_PARTS, "seed", "score", "label_dropout", "matmul_precision")  # when exported
VAE = "vae"  # folder of the encoder in a diffusers folder
WORST = 0.25  # largest missing part of an average's profile, in the L² norm


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
    def about(self) -> dict[str, Any]:
        """What an exported file says about this model, in the form of a checkpoint's contents."""
        about = {
            "facts": self.facts.written(),
            "global_step": self.step,
            "epoch": self.epoch,
            "labels": dict(self.labels),
        }
        kept = {key: self.config[key] for key in KEPT if key in self.config}
        return {"config": yaml.safe_dump(kept), **about, "weights": self.weights}

    @cached_property
    def shape(self) -> Shape:
        """(C, *size) of the examples that it was trained on."""
        channels = self.config["data"].get("channels", 3)
        if not self.config.get("encoder"):
            channels = self.model.get("in_channels", channels) - self.facts.picture
        return int(channels), *data_size(self.config)

    @cached_property
    def kind(self) -> Kind:
        """What its examples are made of. An encoder is first looked for beside the file, in vae/."""
        encoder, beside = self.config.get("encoder"), (self.path if self.path.is_dir() else self.path.parent) / VAE
        if encoder and "path" in encoder and beside.is_dir():
            encoder = {**encoder, "path": str(beside), "subfolder": None}
        try:
            return kind_of(self.config, self.facts, self.shape, encoder)
        except UserError as error:
            raise UserError(f"{self.path}: {error}", key="ckpt") from error

    @property
    def model(self) -> dict[str, Any]:
        return self.facts.model(self.config)

    @property
    def label_dropout(self) -> float:
        return float(self.config.get("label_dropout", 0))


def read(path: Path, to_train: bool = False) -> dict[str, Any]:
    """The contents of a checkpoint, or of an exported file or a diffusers folder in the form of a checkpoint.

    Raises UserError if they cannot be read, or have no training state although it is needed `to_train`.
    """
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such file; name a run (`diffusion status` lists them), a file or demo", key="ckpt")
    exported = path.is_dir() or path.suffix == storage.SUFFIX
    if path.is_dir():
        contents = diffusers_folder.read(path, PREFIX, storage.ABOUT)
    else:
        contents = storage.exported(path, PREFIX) if exported else storage.load(path)
        if "config" not in contents:
            contents, exported = authors.recognized(contents, PREFIX, path), True
    if missing := [key for key, kind in REQUIRED.items() if not isinstance(contents.get(key), kind)]:
        raise UserError(
            f"{path}: not a model of `diffusion train` (it has no {missing[0]}); choose one of those", key="ckpt"
        )
    if to_train and exported:
        raise UserError(f"{path}: an exported model has no training state; start from its weights: init=…", key="ckpt")
    return contents


def what_changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs from a checkpoint's `images`, in words: `the data (train, labels)`; empty if nothing does."""
    changed = ", ".join(name for name, key in before.items() if now.get(name) != key)
    return changed and f"the data ({changed})"


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
        weights: `exact` for the best denoiser in place of the trained one, if the distribution of the data is known;
            `raw` for the trained weights; `ema` for the averaged weights, or the raw ones if there is no average;
            a number for an average of this length (σ_rel), for a run with ema=power.
    """
    path = Path(path)
    contents = read(path)
    config = plain_config(contents["config"], path)
    for part in (*build.PARTS, *build.OPTIONAL_PARTS):
        check_targets(config.get(part), part, path)
    facts = read_facts(contents, config, f"ckpt={path}")
    kind, state = _chosen(contents, path, "ema" if weights == "exact" else weights)
    try:
        data_size(config)  # before anything is built: it decides how much memory the images need
        denoiser: Any = assembled(config, facts)
        denoiser.network.load_state_dict(network_weights(state))
        if weights == "exact":
            if (truth := getattr(make(config["data"], "data"), "truth", None)) is None:
                raise UserError("weights=exact is for data whose distribution is known, such as data=points; use ema")
            denoiser, kind = truth.exact(denoiser.schedule), weights
    except UserError as error:
        raise UserError(f"{path}: {error}", key="ckpt") from error
    except Exception as error:  # a strange configuration raises many kinds of exceptions
        raise UserError(
            f"{path}: its model cannot be built ({' '.join(str(error).split())[-200:]})", key="ckpt"
        ) from error
    denoiser.requires_grad_(False).eval()
    to_channels_last(denoiser.network)  # as in training; faster
    step, images, labels = contents["global_step"], contents.get("images", {}), contents.get("labels", {})
    return Restored(denoiser, config, facts, path, step, contents["epoch"], kind, images, labels)


def _chosen(contents: Mapping[str, Any], path: Path, weights: str | float) -> tuple[str, Mapping[str, Tensor]]:
    """The kind of the chosen weights (see `Restored.weights`), and the state of the module that contains them.

    If a run averages its weights, state_dict has the average, and current_model_state the raw weights.
    """
    averaged, raw, only = contents["state_dict"], contents.get("current_model_state"), contents.get("weights")
    name = weights if isinstance(weights, str) else f"ema {weights:g}"
    if only is not None:  # an exported model
        if name not in ("ema", only):
            raise UserError(f"{path}: it contains only the {only} weights; use weights=ema", key="ckpt")
        return only, averaged
    if not isinstance(weights, str):
        return name, {**averaged, **average_of_length(contents, path, weights)}
    if weights not in ("ema", "raw"):
        raise UserError(f"weights={weights}: expected ema, raw or a number")
    return ("raw", averaged) if raw is None else (name, averaged if weights == "ema" else raw)


def average_of_length(contents: Mapping[str, Any], path: Path, length: float) -> dict[str, Tensor]:
    """The parameters averaged with length σ_rel, at the step of the checkpoint `path`, by name in the module.

    A tracked length is in the checkpoint itself. Any other length is a linear combination, in float64, of the averages
    in the checkpoint and in the earlier snapshots (`diffusion.process.averaging` has the mathematics). Raises UserError
    if that is impossible or too inaccurate.
    """
    asked = f"ckpt={path}: weights={length:g}"
    state = contents.get("callbacks", {}).get("PowerEMA")
    if state is None:
        raise UserError(f"{asked}: only a run with ema=power has averages of other lengths; use weights=ema or raw")
    own: Mapping[str, Mapping[str, Tensor]] = state["averages"]  # σ_rel -> name in the module -> averaged parameter
    if (tracked := own.get(repr(float(length)))) is not None:
        return dict(tracked)
    files = [file for step, file in storage.snapshots(path.parent).items() if step < contents["global_step"]]
    held = {one["updates"]: one for one in [*(storage.load(file, mapped=True) for file in files), state]}
    profiles = [Profile(gamma_of(float(each)), updates) for updates in held for each in own]
    factors, missing = coefficients(profiles, Profile(gamma_of(length), state["updates"]))
    used = f"{count(len(profiles), 'average')} at {count(len(held), 'step')}"
    if not missing <= WORST:
        raise UserError(
            f"{asked}: {missing:.0%} of its profile would be missing (at most {WORST:.0%} may be) from a combination "
            f"of {used}; use a length closer to {' and '.join(own)}, or train with a larger ema.snapshots"
        )
    first = next(iter(own.values()))
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in first.items()}
    parts = [one["averages"][each] for one in held.values() for each in own]
    for factor, part in zip(factors.tolist(), parts, strict=True):
        for name, total in sums.items():
            total.add_(part[name].double(), alpha=factor)
    console.print(f"weights={length:g}: combined from {used}; {missing:.1%} of its profile is missing")
    return {name: total.to(first[name].dtype) for name, total in sums.items()}
