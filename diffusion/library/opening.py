"""What the commands for a trained model begin with: the model, and their settings with what they leave to its run."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from diffusion.base.console import quiet_libraries
from diffusion.checkpoint.find import opened
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import validated
from diffusion.config.choices import choice, composed, left_by
from diffusion.config.inherit import Change
from diffusion.config.schema import COMMANDS, SCORED, Edit, ScoreSettings, Settings
from diffusion.kinds.kind import Source
from diffusion.library.model import Model
from diffusion.process.operators import MaskOperator
from diffusion.sampling.edits import STRENGTH, Blend, EditRequest, Enlargement, Filling, Solutions, Variants
from diffusion.sampling.inheritance import inherited
from diffusion.sampling.parallel import choose_devices

S = TypeVar("S", bound=Settings)
MASK = f"{MaskOperator.__module__}.{MaskOperator.__name__}"


def settings_of(command: str, words: Sequence[str]) -> Any:
    """The settings of a command with these words; groups that are left to the run of a model are None."""
    return validated(COMMANDS[command], composed(command, words) | dict.fromkeys(left_by(command)))


def opened_model(settings: Any, changes: Sequence[Change]) -> tuple[Any, Model, list[torch.device]]:
    """A command's settings, completed by the run of its model; the model, on the first device; the devices."""
    quiet_libraries()
    restored = opened(str(settings.ckpt), settings.weights)
    settings = completed(settings, restored, changes)
    batches = -(-(getattr(settings, "n", 1) or 1) // (getattr(settings, "batch_size", 1) or 1))
    devices = choose_devices(settings.device, getattr(settings, "devices", 1), batches)
    restored.denoiser.to(devices[0])
    return settings, Model(restored, devices[0]), devices


def completed(settings: S, restored: Restored | None, changes: Sequence[Change]) -> S:
    """`settings` with what they leave to the run of a model; without a model, to the defaults of `diffusion train`."""
    values, recipe = settings.model_dump(), restored.config if restored else {}
    score = recipe.get("score") or {}
    numbers = {"seed": recipe.get("seed") or 0, "batch_size": score.get("batch_size") or ScoreSettings().batch_size}
    if restored:  # of a folder of images, n=null is all
        numbers["n"] = score.get("n") or SCORED
    values = numbers | values | {key: number for key, number in numbers.items() if values.get(key, 0) is None}
    name, fills = next(name for name, schema in COMMANDS.items() if schema is type(settings)), False
    if isinstance(settings, Edit):
        fills, operator = bool(settings.mask or settings.operator), (settings.operator or {}).get("_target_", MASK)
        values["inpainting"] = choice("inpainting", "repaint" if operator == MASK else "mmps")
    made = inherited(restored, left_by(name), changes, values, fills)
    return validated(type(settings), {key: made[key] for key in type(settings).model_fields})


def edit_of(settings: Edit, picture: Source | None = None, mask: Source | None = None) -> EditRequest:
    """The edit that complete settings ask for; with a picture and a mask in memory, of these instead of files."""
    if settings.upscale is not None:
        return Enlargement(settings.upscale)
    if settings.interpolate is not None:
        return Blend(*settings.interpolate)
    picture = settings.image if picture is None else picture
    assert picture is not None
    if settings.mask is not None:
        return Filling(picture, settings.mask if mask is None else mask, settings.inpainting or {})
    if settings.operator is not None:
        how = settings.operator, settings.inpainting or {}, settings.noise_level, settings.observed
        return Solutions(picture, *how)
    return Variants(picture, settings.strength or STRENGTH)
