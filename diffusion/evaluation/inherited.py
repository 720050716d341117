"""The settings of a command, completed by those of the run whose model it uses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from diffusion.checkpoint import early
from diffusion.checkpoint.restore import Restored
from diffusion.config.composition import RUN
from diffusion.config.inherit import completed
from diffusion.config.schema import Settings
from diffusion.console import console

S = TypeVar("S", bound=Settings)


def completed_by(settings: S, restored: Restored, where: Path | str | None = None, fills: bool = False) -> S:
    """`settings`, completed with the values that they leave to the run of a model.

    If the run is guided by one of its own earlier steps, this guidance is left out, with a message, in three cases: the
    model has not trained past this step, the weights of the step are not next to its file, or a picture is filled.

    Args:
        where: the name of the model in messages; None: its path.
        fills: whether part of a picture is filled; also implied by settings with a `mask`.
    """
    where, recipe, chosen = where or restored.path, restored.config, getattr(settings, "guidance", None)
    fills = fills or getattr(settings, "mask", None) is not None
    if restored.guidance_step is not None and recipe.get("guidance"):
        recipe = {**recipe, "guidance": {**recipe["guidance"], "step": restored.guidance_step}}
    why = without_guidance(restored, fills)
    if why and chosen == {"from": RUN}:
        console.print(f"{where} {why}: its samples are drawn without guidance", style="yellow")
        recipe = {**recipe, "guidance": None}
    if chosen:
        settings = settings.model_copy(update={"guidance": with_step(chosen, restored)})
    return completed(settings, recipe, where)


def with_step(guidance: Mapping[str, Any], restored: Restored) -> dict[str, Any]:
    """`guidance` with a fractional `step` of the model's own run resolved to a number.

    It becomes the step in the run's recipe, or else the fraction of the model's own steps.
    """
    share = guidance.get("step")
    if not isinstance(share, float) or guidance.get("ckpt") is not None:
        return dict(guidance)
    return {**guidance, "step": restored.guidance_step or max(1, round(share * restored.step))}


def without_guidance(restored: Restored, fills: bool) -> str:
    """The reason to leave out the run's guidance by an earlier step; empty if it applies, or if there is none."""
    step = restored.guidance_step
    if step is None:
        return ""
    if restored.step <= step:
        return f"is at step {restored.step}, but its run's guidance uses the model of step {step}"
    if early.kept(restored.path.parent, step) is None:
        return f"has no weights of step {step} in its folder, but its run's guidance uses them"
    if fills:
        return f"fills part of a picture, where guidance by step {step} is too strong (guidance=early turns it on)"
    return ""
