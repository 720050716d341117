"""What is refused before the first step, each in one line that says how to mend it."""

import json
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from diffusion.console import count
from diffusion.data import ImageData, to_unit
from diffusion.errors import UserError
from diffusion.randomness import Streams
from diffusion.report.words import first_line
from diffusion.training import checkpoint, storage
from diffusion.training.guard import Guard
from diffusion.training.module import Diffusion
from diffusion.training.saving import Checkpoints


def check_device(trainer: DictConfig) -> None:
    """Refuse a GPU that is not there, in one line."""
    asked = str(trainer.get("accelerator", "auto"))
    there = torch.cuda.device_count()
    if asked in ("gpu", "cuda") and there == 0 and not (asked == "gpu" and torch.backends.mps.is_available()):
        raise UserError(f"trainer.accelerator={asked}: this machine has no usable GPU; use trainer.accelerator=auto")
    devices = trainer.get("devices", 1)
    if isinstance(devices, int) and devices > there > 0 and asked in ("gpu", "cuda", "auto"):
        raise UserError(f"trainer.devices={devices}: this machine has {count(there, 'GPU')}; ask for at most {there}")


def check_folder(folder: Path) -> None:
    """Refuse a run folder in which no file can be kept, before anything is read."""
    try:
        storage.probe(folder)
    except OSError as error:
        raise UserError(
            f"cannot write in {folder}: {error.strerror}; choose a folder you can write to (hydra.run.dir=…)"
        ) from error


def check_settings(cfg: DictConfig, folder: Path) -> None:
    """Refuse what the guard and the checkpoints do not know; they are made for the run when its images are there."""
    Guard(**cfg.guard)
    Checkpoints(folder, **cfg.checkpoint)


def set_up(data: ImageData, folder: Path) -> None:
    """Read the images. What was left out, and why, is in the folder's data_report.json, also where it ends the run."""
    try:
        data.prepare_data()
        data.setup()
    finally:
        if left_out := getattr(data, "report", None):
            keep(folder / "data_report.json", left_out)


@rank_zero_only
def keep(file: Path, left_out: list[dict[str, str]]) -> None:
    """[{"path", "reason", "action"}, …]"""
    file.write_text(json.dumps(left_out, indent=1))


def check_size(resolution: int, network: torch.nn.Module) -> None:
    """Refuse images that the network's down-sampling does not divide."""
    factor = int(getattr(network, "downsampling", 1))
    if resolution % factor:
        near = max(factor, round(resolution / factor) * factor)
        raise UserError(
            f"data.resolution={resolution}: the network halves it down by {factor} in all; use a multiple of {factor}, "
            f"such as data.resolution={near}"
        )


def check_recipe(module: Diffusion, data: ImageData) -> None:
    """Refuse what does not fit together, before the first step: one image through the objective, and the optimizer."""
    try:
        with torch.no_grad():
            module.objective(module.denoiser, to_unit(data.splits["train"].images[:1]), Streams([0]))
    except RuntimeError as error:
        raise UserError(f"model: it does not fit the images or the objective ({first_line(error)})") from error
    try:
        module.optimizer(list(module.parameters()))
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer: {first_line(error)}; see conf/optimizer for settings that work") from error


def check_resumed(module: Diffusion, path: Path) -> None:
    """Refuse to go on from the checkpoint of another network."""
    saved, own = (
        {name: tuple(value.shape) for name, value in weights.items() if str(name).startswith("denoiser.network.")}
        for weights in (checkpoint.read(path)["state_dict"], module.state_dict())
    )
    apart = [name for name in saved | own if saved.get(name) != own.get(name)]
    if apart:
        name = apart[0]
        raise UserError(
            f"ckpt={path}: it is of another network, in {len(apart)} of its weights; {name} is "
            f"{saved.get(name, 'not there')}, and {own.get(name, 'not there')} in model; give the model it was trained "
            f"with, or leave ckpt out to train another"
        )
