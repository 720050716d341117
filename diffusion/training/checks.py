"""What is refused before the first step, each in one line that says how to mend it."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import Resumed, shapes_of
from diffusion.config.build import check_kinds, make
from diffusion.config.settings import shown
from diffusion.console import console, count
from diffusion.data import ImageData, to_unit
from diffusion.errors import UserError, first_line
from diffusion.files import replace
from diffusion.process.sampler import Sampler
from diffusion.randomness import Streams
from diffusion.training.guard import Guard
from diffusion.training.module import Diffusion, steps_of
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
    """Refuse settings of what is made for the run only when its images are there."""
    Guard(**cfg.guard)
    Checkpoints(folder, **cfg.checkpoint)
    for group in ("trainer", "ema", "logger"):
        check_kinds(cfg.get(group), group)
    if cfg.get("ema"):
        make(cfg.ema, "ema")


def set_up(data: ImageData, folder: Path) -> None:
    """Read the images; their report is in the folder's data_report.json, also where what was left out ends the run."""
    try:
        data.prepare_data()
        data.setup()
    finally:
        if data.report:
            keep(folder / "data_report.json", data.report)


@rank_zero_only
def keep(file: Path, report: list[dict[str, str]]) -> None:
    """[{"path", "reason", "action"}, …]"""
    replace(file, json.dumps(report, indent=1))


def check_size(resolution: int, network: torch.nn.Module) -> None:
    """Refuse images that the network's down-sampling, or its patches, do not divide."""
    factor = int(getattr(network, "downsampling", 1))
    if resolution % factor:
        near = max(factor, round(resolution / factor) * factor)
        raise UserError(
            f"data.resolution={resolution}: the network needs a multiple of {factor}; use one, such as "
            f"data.resolution={near}"
        )


def check_recipe(module: Diffusion, data: ImageData, sampler: Sampler) -> None:
    """Refuse what does not fit together, before the first step: one image goes through objective and sampler."""
    image = to_unit(data.splits["train"].images[:1])
    try:
        with torch.no_grad():
            module.objective(module.denoiser, image, Streams([0]))
    except RuntimeError as error:
        raise UserError(f"model: it does not fit the images or the objective ({first_line(error)})") from error
    try:
        optimizer = module.optimizer(list(module.parameters()))
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer: {first_line(error)}; see conf/optimizer for settings that work") from error
    module.lr_scheduler(optimizer, 1)
    few = copy.copy(sampler)
    few.steps = min(2, sampler.steps)
    module.denoiser.eval()
    with torch.no_grad():
        few(module.denoiser, torch.zeros_like(image), Streams([0]))
    module.denoiser.train()


def check_length(trainer: pl.Trainer, data: ImageData, resumed: Resumed | None, folder: Path) -> None:
    """Refuse a run in which no step is left, and validations that never come.

    (A run that saved its last step, and ended before its scores, goes on in its folder, where they are made.)
    """
    batches = len(data.splits["train"]) // (data.batch_size * trainer.world_size)
    total, every = steps_of(batches, trainer), trainer.val_check_interval
    if isinstance(every, int) and every > batches and trainer.check_val_every_n_epoch is not None:
        raise UserError(
            f"trainer.val_check_interval={every}: an epoch has {batches} batches; give fewer, or also "
            "trainer.check_val_every_n_epoch=null to count over epochs"
        )
    if resumed is not None:
        own = resumed.path.resolve().parent.parent == folder.resolve()
        if resumed.step > total or (resumed.step == total and not own):
            raise UserError(
                f"ckpt={resumed.path}: it is of step {resumed.step}, and the run ends at step {total}: nothing is left "
                "to train; raise trainer.max_epochs or trainer.max_steps, or leave ckpt out"
            )


def check_resumed(module: Diffusion, config: str, resumed: Resumed) -> None:
    """Refuse to go on with another network, diffusion or state than the checkpoint's; say what else differs."""
    where = f"ckpt={resumed.path}"
    saved, own = resumed.shapes, shapes_of(module.state_dict())
    if apart := [name for name in saved | own if saved.get(name) != own.get(name)]:
        name = apart[0]
        raise UserError(
            f"{where}: it is of another network, in {len(apart)} of its weights; {name} is "
            f"{saved.get(name, 'not there')}, and {own.get(name, 'not there')} in model; give the model it was trained "
            "with, or leave ckpt out to train another"
        )
    before, now = flat(resumed.config), flat(yaml.safe_load(config))
    changed = [key for key in before | now if before.get(key) != now.get(key)]
    other = tuple(key.removesuffix("_target_") for key in changed if key.endswith("._target_"))  # its settings are too
    words = {
        key: f"{key} {shown(before.get(key))} → {shown(now.get(key))}"
        for key in changed
        if key.endswith("._target_") or not key.startswith(other)
    }
    if refused := [words[key] for key in words if key.startswith(SAME)]:
        raise UserError(
            f"{where}: it was trained otherwise: {', '.join(refused)}; give the settings it was trained with, or leave "
            "ckpt out to train with others from the start"
        )
    if told := [words[key] for key in words if key.startswith(TOLD)]:
        console.print(f"other settings than the checkpoint's: {', '.join(told)}", style="yellow")


SAME = ("schedule.", "prediction.", "optimizer._target_", "ema._target_")  # what is learned and kept is of these
TOLD = (
    "seed", "data.", "model.", "objective.", "optimizer.", "lr_scheduler.", "ema.",
    "trainer.precision", "trainer.accumulate_grad_batches", "trainer.gradient_clip",
)  # fmt: skip


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
