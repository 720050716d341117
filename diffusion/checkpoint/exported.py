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
from diffusion.files import replacing

SUFFIX = ".safetensors"
FORMAT = "diffusion-experiments 1"
AVERAGED = re.compile(r"ema( 0\.\d+)?")  # kinds of averaged weights
KEPT = (*PARTS, *OPTIONAL_PARTS, "seed", "score", "label_dropout", "matmul_precision")  # keys of the configuration
MALFORMED = (KeyError, ValueError, RecursionError, OmegaConfBaseException)  # raised for foreign metadata


def write(
    file: Path,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    facts: Facts,
    step: int,
    epoch: int,
    kind: str,
    labels: Mapping[str, int],
) -> Path:
    """Write a network's weights, under their names in the network, and the configuration that builds it.

    The metadata are "format", "config" (JSON: model, schedule, prediction and data, and the run's sampler, guidance,
    features, metrics, seed, score, label_dropout and matmul_precision), "facts" (JSON), "step", "epoch", "weights" and
    "labels" (JSON).

    Args:
        facts: see `checkpoint.facts`.
        kind: `ema`, `raw`, or `ema 0.08` for an average of this length.
        labels: class -> number of training images; see `restore.Restored`.
    """
    if file.suffix != SUFFIX:
        raise UserError(f"{file}: expected a file name that ends in {SUFFIX}")
    described_by = metadata(config, facts, step, epoch, kind, labels)
    with replacing(file, durable=True) as target:
        target.write(save({name: value.contiguous() for name, value in weights.items()}, described_by))
    return file


def metadata(
    config: Mapping[str, Any], facts: Facts, step: int, epoch: int, kind: str, labels: Mapping[str, int]
) -> dict[str, str]:
    """The metadata of a file; see `write`."""
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
    contents: dict[str, Any] = {
        "config": OmegaConf.to_yaml(OmegaConf.create(json.loads(found["config"]))),
        "facts": json.loads(found.get("facts", "{}")),
        "global_step": int(found["step"]),
        "epoch": int(found["epoch"]),
        "labels": json.loads(found.get("labels", "{}")),
    }
    if AVERAGED.fullmatch(kind := found.get("weights", "")):
        contents["current_model_state"] = {}  # averaged weights; the raw ones were not exported
        contents["weights"] = kind
    return contents


def read(file: Path, prefix: str) -> dict[str, Any]:
    """Read a file of `write` in the form of a checkpoint: `prefix` is added to each tensor's name.

    Raises UserError for a file that is damaged or was not written by diffusion.export.
    """
    try:
        with safe_open(str(file), "pt") as opened:
            found = opened.metadata() or {}
            tensors = {prefix + name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if found.get("format") != FORMAT:
            raise UserError(f"ckpt={file}: not written by diffusion.export; use a file that it wrote, or a checkpoint")
        return {"state_dict": tensors, **described(found)}
    except (SafetensorError, OSError, *MALFORMED) as error:
        raise UserError(
            f"ckpt={file}: not a readable safetensors file ({first_line(error)}); export it again"
        ) from error
