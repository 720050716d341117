"""Guidance as it is configured: the mathematics of `process.guidance`, and the worse model that it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from diffusion.checkpoint.find import at_step, trained
from diffusion.checkpoint.restore import Restored, restore
from diffusion.config.build import make
from diffusion.config.validation import check_arguments
from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser
from diffusion.process.guidance import AutoGuidance, Guidance

Shape = tuple[int, int, int]
"""(C, H, W)"""


@dataclass(frozen=True)
class Worse:
    """The worse model of a guidance, as it is configured in conf/guidance."""

    ckpt: str | None = None  # None: the model itself
    weights: Literal["ema", "raw"] | float | None = None
    step: Annotated[int, Ge(1)] | Annotated[float, Gt(0), Lt(1)] | None = None  # or a fraction of the run's own steps


def parts_of(node: Mapping[str, Any]) -> tuple[Guidance, Worse]:
    """Build the guidance and the description of the worse model in a configuration."""
    given = {key: node[key] for key in Worse.__annotations__ if key in node}
    check_arguments(Worse, given, "guidance")
    guidance: Guidance = make({key: node[key] for key in node if key not in given}, "guidance", Guidance)
    return guidance, Worse(**given)


def guidance_of(node: Mapping[str, Any] | None, model: Restored) -> tuple[Guidance | None, Denoiser | None]:
    """Build the guidance of a configuration and its worse model for a trained model: see `make_guidance`."""
    guidance, worse = make_guidance(node, model.shape, [*model.labels], model.path)
    return guidance, None if worse is None else worse.denoiser


def make_guidance(
    node: Mapping[str, Any] | None, shape: Shape, classes: Sequence[str], own: Path | None
) -> tuple[Guidance | None, Restored | None]:
    """Build the guidance of a configuration, and load its worse model, if any.

    Args:
        shape: (C, H, W) of the model's images.
        classes: the names of the model's classes.
        own: the file of the model; None during training, when the weights of `guidance.step` may not exist yet.

    Raises UserError if they do not fit together.
    """
    if not node:
        return None, None
    guidance, asked = parts_of(node)
    if isinstance(guidance, AutoGuidance) and asked == Worse():
        raise UserError(
            "guidance: autoguidance needs a worse model; set guidance.step to an earlier step, guidance.ckpt to a "
            "smaller or less trained model, or guidance.weights to other weights of this one"
        )
    if asked.ckpt is None and asked.weights is not None and own is None:
        raise UserError(f"guidance.weights={asked.weights}: in training it needs guidance.ckpt, a model with them")
    if asked.ckpt is None and (own is None or asked == Worse()):
        return guidance, None
    file = trained(asked.ckpt or str(own))
    if isinstance(asked.step, float):
        raise UserError(f"guidance.step={asked.step:g}: a fraction is one of the model's own run; set a step number")
    if asked.step is not None:
        file = at_step(file.parent, asked.step)
    worse = restore(file, asked.weights or "ema")
    check_worse(guidance, worse, shape, classes)
    return guidance, worse


def check_worse(guidance: Guidance, worse: Restored, shape: Shape, classes: Sequence[str]) -> None:
    """Raise UserError if a worse model has other images or classes, or cannot estimate as the guidance needs."""
    where = f"guidance.ckpt={worse.path}"
    if worse.shape != shape:
        raise UserError(f"{where}: its images have the shape {worse.shape}, but the model's {shape}; choose another")
    if guidance.drops_labels and worse.labels and worse.label_dropout == 0:
        raise UserError(f"{where}: it was trained with label_dropout=0; choose one that can estimate without a label")
    if not guidance.drops_labels and worse.labels and classes and [*worse.labels] != [*classes]:
        raise UserError(f"{where}: its classes are others than the model's; choose a model with the same in that order")
