"""Models for others, and from others: safetensors files hold tensors and text, and nothing that could run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from diffusion.config import build
from diffusion.errors import UserError, first_line
from diffusion.files import replacing

if TYPE_CHECKING:
    from diffusion.checkpoint.restore import Restored

SUFFIX = ".safetensors"
FORMAT = "diffusion-experiments 1"
KEPT = (*build.PARTS, *build.FURTHER, "seed", "score")  # of the configuration


def export(restored: "Restored", file: Path) -> Path:
    """Write the network's weights and what builds it; returns `file`.

    The tensors have the network's own names. The metadata hold "format", "config" (JSON of model, schedule, prediction,
    data; and for samples and scores as the run's own, of sampler, features, metrics, seed, score), "step", "epoch",
    "weights".
    """
    if file.suffix != SUFFIX:
        raise UserError(f"{file}: expected a file name that ends in {SUFFIX}")
    config = {key: restored.config[key] for key in KEPT if key in restored.config}
    tensors = {name: value.contiguous() for name, value in restored.denoiser.network.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(config),
        "step": str(restored.step),
        "epoch": str(restored.epoch),
        "weights": restored.weights,
    }
    with replacing(file, durable=True) as target:
        target.write(save(tensors, metadata))
    return file


def read(file: Path, prefix: str) -> dict[str, Any]:
    """What `export` wrote, as a checkpoint has it; tensors are named `prefix` + their name in the network.

    Raises UserError for a file that is damaged or not by `export`.
    """
    try:
        with safe_open(str(file), "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {prefix + name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise UserError(f"ckpt={file}: not written by diffusion.export; use a file of its, or a checkpoint")
        config = OmegaConf.to_yaml(OmegaConf.create(json.loads(metadata["config"])))
        step, epoch = int(metadata["step"]), int(metadata["epoch"])
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError, OmegaConfBaseException) as error:
        raise UserError(
            f"ckpt={file}: not a readable safetensors file ({first_line(error)}); export it again"
        ) from error
    contents: dict[str, Any] = {"config": config, "state_dict": tensors, "global_step": step, "epoch": epoch}
    if metadata.get("weights") == "ema":
        contents["current_model_state"] = {}  # an average, whose raw weights are not there
    return contents
