"""The settings of a command, completed by those of the run whose model it uses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from diffusion.checkpoint import early
from diffusion.checkpoint.restore import Restored
from diffusion.config.inherit import RUN, completed
from diffusion.config.schema import Settings
from diffusion.console import console

S = TypeVar("S", bound=Settings)


def completed_by(settings: S, restored: Restored, where: Path | str | None = None, fills: bool = False) -> S:
    """`settings` with what they leave to the run of a model.

    A run's guidance by one of its own steps is left out, which is printed, where the model has not come to this step,
    where the weights of the step are not beside its file, and where a part of a picture is filled.

    Args:
        where: what messages call the model; None: its path.
        fills: a part of a picture is filled, as by settings with a `mask`.
    """
    where, recipe, chosen = where or restored.path, restored.config, getattr(settings, "guidance", None)
    fills = fills or getattr(settings, "mask", None) is not None
    why = without_guidance(recipe.get("guidance"), restored, fills)
    if why and chosen == {"from": RUN}:
        console.print(f"{where} {why}: its samples are drawn without guidance", style="yellow")
        recipe = {**recipe, "guidance": None}
    if chosen:
        settings = settings.model_copy(update={"guidance": with_step(chosen, restored)})
    return completed(settings, recipe, where)


def with_step(guidance: Mapping[str, Any], restored: Restored) -> dict[str, Any]:
    """A guidance by the model's own run, whose `step` is a number: a share is of the run's steps, or of the model's."""
    share = guidance.get("step")
    if not isinstance(share, float) or guidance.get("ckpt") is not None:
        return dict(guidance)
    step = (restored.config.get("guidance") or {}).get("step")
    return {**guidance, "step": step if isinstance(step, int) else max(1, round(share * restored.step))}


def without_guidance(guidance: Any, restored: Restored, fills: bool) -> str:
    """Why a model is not given its run's guidance by an earlier step; empty where it is, or where there is none."""
    step = guidance.get("step") if isinstance(guidance, dict) and guidance.get("ckpt") is None else None
    if not isinstance(step, int):
        return ""
    if restored.step <= step:
        return f"is at step {restored.step}, but its run's guidance uses the model of step {step}"
    if early.kept(restored.path.parent, step) is None:
        return f"has no weights of step {step} in its folder, which its run's guidance uses"
    if fills:
        return f"fills a part of a picture, where guidance by step {step} exaggerates (guidance=early asks for it)"
    return ""
