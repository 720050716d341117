"""The settings that a model's run passes on to what uses the model (`config.inherit`), and those that it must not."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusion.base.console import console
from diffusion.checkpoint.find import kept
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import check_node
from diffusion.config.choices import nodes
from diffusion.config.inherit import Change, inherit, of_recipe
from diffusion.errors import UserError


def inherited(
    restored: Restored | None, groups: Sequence[str], changes: Sequence[Change], values: Mapping[str, Any],
    fills: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """`values` with the nodes of these groups, changed: their own, those of the model's run, or those of a training.

    Guidance by an earlier step of the run is left out, with a message, if that step has no weights or is not earlier,
    unless it is changed. Raises UserError for settings that must not come from a file.

    Args:
        fills: whether part of a picture is filled, for which guidance by an earlier step is too strong, and left out.
    """
    recipe = restored.config if restored else {}
    step = restored.facts.guidance_step if restored else None
    base = {group: values.get(group) or of_recipe(group, recipe) for group in groups}
    if restored and step and base.get("guidance") and all(change.part != "guidance" for change in changes):
        missing = restored.step <= step or kept(restored.path.parent, step) is None
        if missing or fills:
            why = "its folder has no such weights" if missing else "too strong for this; guidance=early turns it on"
            console.print(f"drawn without its run's guidance by step {step}: {why}", style="yellow")
            base["guidance"] = None
    if restored and any(change.place == "sampler.threshold" and change.value is not None for change in changes):
        restored.kind.require("sampler.threshold")
    chosen = {change.place for change in changes}
    for group in [each for each in groups if each not in chosen and base[each]]:
        if (group == "features" and base[group] not in nodes(group)) or base[group].get("ckpt") is not None:
            raise UserError(
                f"the run's {group} read other weights, and a file may not decide which are read; set {group} "
                "yourself, such as features=clip features.source=FOLDER, or guidance=auto guidance.ckpt=RUN"
            )
    made = inherit({**values, **base}, changes, groups)
    guidance = made.get("guidance") or {}
    if restored and isinstance(share := guidance.get("step"), float) and guidance.get("ckpt") is None:
        # the step that the run has kept for its own guidance, or else this fraction of the model's steps
        guidance["step"] = step or max(1, round(share * restored.step))
    for group in groups:
        if group != "guidance":  # part of which describes another model
            check_node(made[group], group)
    return made
