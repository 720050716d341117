"""The settings of a command, completed by those of the run whose model it uses.

`sampler=run`, the default, is the run's sampler; single settings of it can be overridden: `sampler.steps=20`,
`grid@sampler.grid=karras`. The same applies to guidance, features, metrics and data, and to a number that is null.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from diffusion.checkpoint.find import kept
from diffusion.checkpoint.restore import Restored
from diffusion.config.choices import INHERITED, RUN, composed, nodes
from diffusion.config.schema import SCORED, Score, Settings
from diffusion.config.validation import flat, validated
from diffusion.console import console
from diffusion.errors import UserError, nearest

S = TypeVar("S", bound=Settings)


def completed(settings: S, restored: Restored | None, fills: bool = False) -> S:
    """`settings`, completed with the values that they leave to the run of a model.

    Without a model, and for parts that an exported file does not contain, they are the defaults of diffusion.train.
    Guidance by an earlier step of the run is left out, with a message, where `without_guidance` has a reason. Raises
    UserError for settings that must not come from a file.

    Args:
        fills: whether part of a picture is filled; also implied by settings with a `mask`.
    """
    values, recipe = settings.model_dump(), restored.config if restored else {}
    own = values.get("guidance") == {"from": RUN}
    if restored and own and (why := without_guidance(restored, fills or values.get("mask") is not None)):
        console.print(f"{restored.path} {why}: its samples are drawn without guidance", style="yellow")
        values["guidance"] = None
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
        values[group] = _merged(inherited, changes, group)
    guidance = values.get("guidance") or {}
    if restored and isinstance(share := guidance.get("step"), float) and guidance.get("ckpt") is None:
        # the step that the run has kept for its own guidance, or else this fraction of the model's steps
        guidance["step"] = restored.facts.get("guidance_step") or max(1, round(share * restored.step))
    known = flat(recipe)
    numbers = {"seed": known.get("seed") or 0, "batch_size": known.get("score.batch_size") or Score().batch_size}
    if restored:  # of a folder of images, n=null is all
        numbers["n"] = known.get("score.n") or SCORED
    values |= {key: number for key, number in numbers.items() if key in values and values[key] is None}
    if (values.get("data") or {}).get("seed", 0) is None:  # as in conf/data/landscapes.yaml
        values["data"]["seed"] = values.get("seed") or 0
    return validated(type(settings), values)


def of_run(group: str, recipe: Mapping[str, Any]) -> Any:
    """The node of a group in a run's recipe or, if it has none, the default of diffusion.train."""
    return (recipe[group] if group in recipe else composed("train")[group]) or {}


def without_guidance(restored: Restored, fills: bool) -> str:
    """The reason to leave out the run's guidance by an earlier step; empty if it applies, or if there is none."""
    step = restored.facts.get("guidance_step")
    if step is None:
        return ""
    if restored.step <= step:
        return f"is at step {restored.step}, but its run's guidance uses the model of step {step}"
    if kept(restored.path.parent, step) is None:
        return f"has no weights of step {step} in its folder, but its run's guidance uses them"
    if fills:
        return f"fills part of a picture, where guidance by step {step} is too strong (guidance=early turns it on)"
    return ""


def _merged(inherited: Any, changes: Any, place: str) -> Any:
    """Apply `changes` to `inherited`, recursively. A node with its own `_target_` replaces the inherited one.

    Raises UserError for a setting that does not exist in `inherited`, which is at `place` in the configuration.
    """
    if not isinstance(inherited, Mapping) or not isinstance(changes, Mapping) or "_target_" in changes:
        return changes
    for key, value in changes.items():
        if key not in inherited and not (isinstance(value, Mapping) and "_target_" in value):
            having = [name for name in inherited if not name.startswith("_")]
            raise UserError(
                f"{place}.{key}: the run's {place} has no such setting{nearest(key, having)}; it has "
                f"{', '.join(having) or 'none'}; or choose another, {place}=…"
            )
    merged = {key: _merged(inherited.get(key), value, f"{place}.{key}") for key, value in changes.items()}
    return {**inherited, **merged}
