"""Guidance as it is configured: the mathematics of `process.guidance`, and the worse model that it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from diffusion.checkpoint.find import at_step, trained
from diffusion.checkpoint.restore import Restored, restore
from diffusion.config.build import check_arguments, make
from diffusion.errors import UserError
from diffusion.process.guidance import Guidance


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


def make_guidance(node: Mapping[str, Any] | None, model: Restored | None) -> tuple[Guidance | None, Restored | None]:
    """Build the guidance of a configuration, and load its worse model, if any.

    Args:
        model: what it guides; None during training, when the weights of `guidance.step` may not exist yet.

    Raises UserError if there is no such worse model, or if it does not fit the model.
    """
    if not node:
        return None, None
    guidance, asked = parts_of(node)
    if asked == Worse() and not guidance.drops_labels:
        raise UserError("guidance: it needs a worse model; set guidance.step, guidance.ckpt or guidance.weights")
    if asked.ckpt is not None:
        file = trained(asked.ckpt)
    elif model is None or asked == Worse():
        return guidance, None
    else:
        file = model.path
    if isinstance(asked.step, float):
        raise UserError(f"guidance.step={asked.step:g}: a fraction is one of the model's own run; set a step number")
    worse = restore(at_step(file.parent, asked.step) if asked.step else file, asked.weights or "ema")
    if model is not None:
        check_worse(guidance, worse, model.shape, [*model.labels])
    return guidance, worse


def check_worse(guidance: Guidance, worse: Restored, shape: tuple[int, ...], classes: Sequence[str]) -> None:
    """Raise UserError if a worse model has other images (C, H, W) or classes than the model that it guides."""
    if worse.shape != shape or (worse.labels and not guidance.drops_labels and [*worse.labels] != [*classes]):
        raise UserError(
            f"guidance.ckpt={worse.path}: its images {worse.shape} or its classes are others than the model's, "
            f"{shape}; choose a model of the same images"
        )
