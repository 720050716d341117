"""Exported models: safetensors files, which contain tensors and text but no executable code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion.config.build import OPTIONAL_PARTS, PARTS, Facts
from diffusion.errors import UserError, first_line
from diffusion.files import replace

SUFFIX = ".safetensors"
FORMAT = "diffusion-experiments 1"
KEPT = (*PARTS, *OPTIONAL_PARTS, "seed", "score", "label_dropout", "matmul_precision")  # keys of the configuration
MALFORMED = (KeyError, ValueError, RecursionError, yaml.YAMLError)  # raised for foreign metadata


def write(file: Path, weights: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
    """Write a network's weights, under their names in the network, with `metadata` about them."""
    if file.suffix != SUFFIX:
        raise UserError(f"{file}: expected a file name that ends in {SUFFIX}")
    replace(file, save({name: value.contiguous() for name, value in weights.items()}, dict(about)), durable=True)
    return file


def metadata(
    config: Mapping[str, Any], facts: Facts, step: int, epoch: int, kind: str, labels: Mapping[str, int]
) -> dict[str, str]:
    """The metadata of a file: text, from which the network can be built. Of `config`, the parts in `KEPT` are needed.

    Args:
        kind: `ema`, `raw`, or `ema 0.08` for an average of this length.
        labels: class -> number of training images, ordered by class index.
    """
    kept = {key: config[key] for key in KEPT if key in config}
    values = {"config": kept, "facts": dict(facts), "step": step, "epoch": epoch, "labels": dict(labels)}
    return {"format": FORMAT, "weights": kind} | {key: json.dumps(value) for key, value in values.items()}


def described(found: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a file in the form of a checkpoint without weights. Raises one of `MALFORMED`."""
    contents = {key: json.loads(found[key]) for key in ("facts", "epoch", "labels")}
    contents |= {"config": yaml.safe_dump(json.loads(found["config"])), "global_step": int(found["step"])}
    if (kind := found["weights"]) == "raw":
        return contents
    return {**contents, "current_model_state": {}, "weights": kind}  # the raw weights were not exported


def read(file: Path, prefix: str) -> dict[str, Any]:
    """Read a file of `write` in the form of a checkpoint: `prefix` is added to each tensor's name.

    Raises UserError for a file that is damaged or was not written by diffusion.export.
    """
    try:
        with safe_open(str(file), "pt") as opened:
            tensors = {prefix + name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return {"state_dict": tensors, **described(opened.metadata() or {})}
    except (SafetensorError, OSError, *MALFORMED) as error:
        raise UserError(f"ckpt={file}: not a readable file of diffusion.export ({first_line(error)})") from error
