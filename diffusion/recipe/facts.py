"""`Facts`: what a checkpoint says about its model beside its recipe.

A recipe is what was asked for. The facts follow from it, from the data, and from the run: they are read and written
here alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from diffusion.config.build import check_arguments
from diffusion.data.conditions import Condition
from diffusion.errors import UserError
from diffusion.kinds.kind import Shape

ARGUMENTS = ("in_channels", "out_channels", "classes", "augment", "coordinates")  # of a network that may be facts
PIXELS, POINTS, MEASURED, LATENTS = "pixels", "points", "measured", "latents"


@dataclass(frozen=True)
class ConditionFacts:
    """The shapes of a condition's tensors, by name, and its figures of the training images."""

    shapes: dict[str, list[int]]
    figures: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, condition: Condition, shape: Shape) -> ConditionFacts:
        """Those of a condition of examples of `shape` (C, *size)."""
        return cls({name: [*each] for name, each in condition.shapes(shape).items()}, dict(condition.figures))


@dataclass(frozen=True)
class Facts:
    """Everything has a default, so that the facts of a network of others are few."""

    arguments: dict[str, int] = field(default_factory=dict)
    """Arguments of the network that follow from the data and from other settings."""
    picture: int = 0
    """Channels of the condition's picture, as the denoiser gets it."""
    vector: int = 0
    """Numbers of the condition's vector."""
    centred: bool = False
    """Whether the picture is an estimate of the image (`process.denoiser`)."""
    ends: int = 0
    """Labels of the network for the end of a flow map."""
    kind: str = PIXELS
    """The name of the kind of the data (`kinds.kind`)."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Of that kind."""
    condition: ConditionFacts | None = None
    guidance_step: int | None = None
    """The step whose weights guide the run's own samples."""

    @property
    def inputs(self) -> dict[str, Any]:
        """The arguments of `process.denoiser.denoiser_of` beside network, schedule and prediction."""
        return {"picture": self.picture, "vector": self.vector, "centred": self.centred, "ends": self.ends}

    def model(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """The node of the network in a recipe, with the arguments that are facts. Both may be a stranger's."""
        return {**recipe["model"], **self.arguments}

    def written(self) -> dict[str, Any]:
        """As plain data, for a checkpoint and run.json."""
        default, own = Facts(), {each.name: getattr(self, each.name) for each in fields(self)}
        kept = {name: value for name, value in own.items() if value != getattr(default, name)}
        arguments = kept.pop("arguments", {})
        return arguments | {name: asdict(x) if isinstance(x, ConditionFacts) else x for name, x in kept.items()}


def read_facts(contents: Mapping[str, Any], recipe: Mapping[str, Any], where: str) -> Facts:
    """The facts in the contents of a checkpoint, as `Facts.written` or version 1.0 wrote them.

    Version 1.0 had the figures of measurements and latents under the name of the kind, and nothing for other kinds.
    Raises UserError for facts of another form: the file may be a stranger's.
    """
    said = dict(contents.get("facts") or {})
    arguments = {name: said.pop(name) for name in ARGUMENTS if name in said}
    if wrong := [name for name, value in arguments.items() if not isinstance(value, int)]:
        raise UserError(f"{where}: its {wrong[0]} is {arguments[wrong[0]]!r}; expected a number")
    for kind in (MEASURED, LATENTS):
        if kind in said:
            said |= {"kind": kind, "figures": said.pop(kind)}
    data = recipe.get("data") or {}
    if "kind" not in said and (data.get("channels"), data.get("resolution")) == (2, 1):
        said["kind"] = POINTS
    condition = said.pop("condition", None)
    check_arguments(Facts, said, f"{where}: facts")
    if condition is not None:
        check_arguments(ConditionFacts, condition, f"{where}: facts.condition")
        condition = ConditionFacts(**condition)
    return Facts(arguments, condition=condition, **said)
