"""Exported models: safetensors files, which contain tensors and text but no executable code."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion.checkpoint.facts import Facts
from diffusion.config.untrusted import OPTIONAL_PARTS, PARTS
from diffusion.errors import UserError, first_line
from diffusion.files import replace

SUFFIX = ".safetensors"
FORMAT = "diffusion-experiments 1"
AVERAGED = re.compile(r"ema( 0\.\d+)?")  # kinds of averaged weights
KEPT = (*PARTS, *OPTIONAL_PARTS, "seed", "score", "label_dropout", "matmul_precision")  # keys of the configuration
MALFORMED = (KeyError, ValueError, RecursionError, OmegaConfBaseException)  # raised for foreign metadata


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
    return {
        "format": FORMAT,
        "config": json.dumps({key: config[key] for key in KEPT if key in config}),
        "facts": json.dumps(dict(facts)),
        "step": str(step),
        "epoch": str(epoch),
        "weights": kind,
        "labels": json.dumps(dict(labels)),
    }


def described(found: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a file in the form of a checkpoint without weights. Raises one of `MALFORMED`."""
    contents = {
        "config": OmegaConf.to_yaml(OmegaConf.create(json.loads(found["config"]))),
        "facts": json.loads(found["facts"]),
        "global_step": int(found["step"]),
        "epoch": int(found["epoch"]),
        "labels": json.loads(found["labels"]),
    }
    if AVERAGED.fullmatch(kind := found["weights"]):
        return {**contents, "current_model_state": {}, "weights": kind}  # the raw weights were not exported
    return contents


def read(file: Path, prefix: str) -> dict[str, Any]:
    """Read a file of `write` in the form of a checkpoint: `prefix` is added to each tensor's name.

    Raises UserError for a file that is damaged or was not written by diffusion.export.
    """
    try:
        with safe_open(str(file), "pt") as opened:
            tensors = {prefix + name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return {"state_dict": tensors, **described(opened.metadata() or {})}
    except (SafetensorError, OSError, *MALFORMED) as error:
        raise UserError(
            f"ckpt={file}: not a readable file of diffusion.export ({first_line(error)}); export it again"
        ) from error
