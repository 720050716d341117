"""What a model passes on to the command that uses it.

A command's settings are completed by those of the run whose model it uses. `sampler=run`, the default, is the run's
sampler, of which single settings can be overridden: `sampler.steps=20`, `grid@sampler.grid=karras`. The same applies to
guidance, features, metrics and data, and to a number that is null.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from diffusion.base.console import console
from diffusion.checkpoint.find import kept
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import validated
from diffusion.config.choices import INHERITED, RUN, composed, nodes
from diffusion.config.schema import SCORED, Score, Settings
from diffusion.errors import UserError

S = TypeVar("S", bound=Settings)


def completed(settings: S, restored: Restored | None, fills: bool = False) -> S:
    """`settings`, completed with the values that they leave to the run of a model.

    Without a model, and for parts that an exported file does not contain, they are the defaults of `diffusion train`.
    Guidance by an earlier step of the run is left out, with a message, if that step has no weights or is not earlier.
    Raises UserError for settings that must not come from a file.

    Args:
        fills: whether part of a picture is filled, for which guidance by an earlier step is too strong, and left out;
            also implied by settings with a `mask` or an `operator`.
    """
    values, recipe = settings.model_dump(), restored.config if restored else {}
    step = restored.facts.get("guidance_step") if restored else None
    if restored and step and values.get("guidance") == {"from": RUN}:
        missing = restored.step <= step or kept(restored.path.parent, step) is None
        if missing or fills or values.get("mask") or values.get("operator"):
            why = "its folder has no such weights" if missing else "too strong for this; guidance=early turns it on"
            console.print(f"drawn without its run's guidance by step {step}: {why}", style="yellow")
            values["guidance"] = None
    if values.get("then"):
        values["condition"] = {"from": RUN}  # what is set is for the other models
    for group in INHERITED:
        changes = dict(values.get(group) or {})
        if changes.pop("from", None) != RUN:
            continue
        inherited = of_run(group, recipe)
        if (group == "features" and inherited not in nodes(group)) or inherited.get("ckpt") is not None:
            raise UserError(
                f"the run's {group} read other weights, and a file may not decide which are read; set {group} "
                "yourself, such as features=clip features.source=FOLDER, or guidance=auto guidance.ckpt=RUN"
            )
        if changes and not inherited:
            raise UserError(f"{group}: the run has none whose settings could change; choose one, such as {group}=…")
        values[group] = merged(inherited, changes)
    guidance = values.get("guidance") or {}
    if restored and isinstance(share := guidance.get("step"), float) and guidance.get("ckpt") is None:
        # the step that the run has kept for its own guidance, or else this fraction of the model's steps
        guidance["step"] = step or max(1, round(share * restored.step))
    score = recipe.get("score") or {}
    numbers = {"seed": recipe.get("seed") or 0, "batch_size": score.get("batch_size") or Score().batch_size}
    if restored:  # of a folder of images, n=null is all
        numbers["n"] = score.get("n") or SCORED
    values |= {key: number for key, number in numbers.items() if key in values and values[key] is None}
    if (values.get("data") or {}).get("seed", 0) is None:  # as in conf/data/landscapes.yaml
        values["data"]["seed"] = values.get("seed") or 0
    return validated(type(settings), values)


def of_run(group: str, recipe: Mapping[str, Any]) -> Any:
    """The node of a group in a run's recipe or, if it has none, the default of `diffusion train`."""
    return (recipe[group] if group in recipe else composed("train")[group]) or {}


def merged(node: Any, changes: Any) -> Any:
    """A node with changes, recursively. A changed node with its own `_target_` replaces that of the run."""
    if not isinstance(node, Mapping) or not isinstance(changes, Mapping) or "_target_" in changes:
        return changes
    return {**node, **{key: merged(node.get(key), value) for key, value in changes.items()}}
