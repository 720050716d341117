"""Guidance as it is configured: the mathematics of `process.guidance`, and the worse model that it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from diffusion.checkpoint import early
from diffusion.checkpoint.find import trained
from diffusion.checkpoint.restore import Restored, restore
from diffusion.config.build import make
from diffusion.config.validation import check_arguments
from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser
from diffusion.process.guidance import AutoGuidance, Guidance

UNLABELLED = "the model was trained with label_dropout=0, so it cannot estimate without a label"
Shape = tuple[int, int, int]
"""(C, H, W)"""


@dataclass(frozen=True)
class Worse:
    """The worse model of a guidance, as it is configured.

    Args:
        ckpt: a run, a checkpoint or an exported file; null: the model itself.
        weights: `ema` (averaged), `raw`, or the length of an average (ema=power); null: `ema`.
        step: a number of optimizer steps of the run itself or of the run of `ckpt`, or a fraction of the steps of the
            run itself, such as 0.4; null: the last step. A training run with this setting keeps these weights, and
            guides its last samples with them.
    """

    ckpt: str | None = None
    weights: Literal["ema", "raw"] | float | None = None
    step: Annotated[int, Ge(1)] | Annotated[float, Gt(0), Lt(1)] | None = None


def parts_of(node: Mapping[str, Any]) -> tuple[Guidance, Worse]:
    """Build the guidance and the description of the worse model in a configuration."""
    given = {key: node[key] for key in Worse.__annotations__ if key in node}
    check_arguments(Worse, given, "guidance")
    guidance: Guidance = make({key: node[key] for key in node if key not in given}, "guidance", Guidance)
    return guidance, Worse(**given)


def guidance_of(node: Mapping[str, Any] | None, model: Restored) -> tuple[Guidance | None, Denoiser | None]:
    """Build the guidance of a configuration for a trained model: see `make_guidance`."""
    guidance, worse = make_guidance(node, model.shape, model.label_dropout, model.path)
    if guidance is None or worse is None:
        return guidance, None
    check_classes(guidance, worse, [*model.labels])
    return guidance, worse.denoiser


def make_guidance(
    node: Mapping[str, Any] | None, shape: Shape, label_dropout: float, own: Path | None
) -> tuple[Guidance | None, Restored | None]:
    """Build the guidance of a configuration, and load its worse model, if any.

    Args:
        shape: (C, H, W) of the model's images.
        label_dropout: the label dropout that the model was trained with.
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
    if asked.ckpt is None:
        check_label_dropout(guidance, label_dropout)
        if own is None and asked.weights is not None:
            raise UserError(
                f"guidance.weights={asked.weights}: in training it needs guidance.ckpt, the model with these weights"
            )
        if own is None or (asked.weights is None and asked.step is None):
            return guidance, None
    file = own if asked.ckpt is None else trained(asked.ckpt)
    assert file is not None
    if isinstance(asked.step, float):
        raise UserError(
            f"guidance.step={asked.step:g}: a fraction is only defined for the model's own run; set a step number"
        )
    if asked.step is not None:
        file = early.find(file.parent, asked.step)
    worse = restore(file, asked.weights or "ema")
    check_worse(guidance, worse, shape)
    return guidance, worse


def check_label_dropout(guidance: Guidance, label_dropout: float) -> None:
    """Raise UserError if the guidance uses the model without labels, which it has not learned."""
    if guidance.drops_labels and label_dropout == 0:
        raise UserError(
            f"guidance: {UNLABELLED}; train it with label_dropout=0.1, or set guidance.ckpt to an unconditional model"
        )


def check_worse(guidance: Guidance, worse: Restored, shape: Shape) -> None:
    """Raise UserError if a worse model has images of another shape, or cannot estimate as the guidance needs."""
    if worse.shape != shape:
        raise UserError(
            f"guidance.ckpt={worse.path}: its images are {describe_shape(worse.shape)}, but the model's are "
            f"{describe_shape(shape)}; choose a model with images of the same shape"
        )
    if has_classes(worse.denoiser):
        check_label_dropout(guidance, worse.label_dropout)


def check_classes(guidance: Guidance, worse: Restored, names: Sequence[str]) -> None:
    """Raise UserError if the guidance gives a worse model a class of the model, whose number is another class there.

    Args:
        names: the model's classes, ordered by number.
    """
    others = [*worse.labels]
    numbers = [*map(str, range(len(names)))]  # of a diffusers folder, which does not name its classes
    if not guidance.drops_labels and others and names and numbers not in (others, [*names]) and others != [*names]:
        raise UserError(
            f"guidance.ckpt={worse.path}: its classes are {', '.join(others)}, but the model's are {', '.join(names)}; "
            "choose a model that was trained with the same classes in the same order"
        )


def has_classes(denoiser: Denoiser) -> bool:
    """Whether the network has class labels as an input."""
    return bool(getattr(denoiser.network, "classes", 0))


def describe_shape(shape: Shape) -> str:
    """The shape as text: `3×64×64`."""
    return "×".join(map(str, shape))
