"""A cascade: each model enlarges the images of the one before."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffusion.checkpoint.find import opened
from diffusion.config.inherit import Change
from diffusion.config.schema import Sample
from diffusion.errors import UserError
from diffusion.library.model import Model
from diffusion.library.opening import completed
from diffusion.randomness import seed_for
from diffusion.sampling.drawing import Drawing
from diffusion.sampling.given import Given, condition_of
from diffusion.sampling.request import Request


def enlarging(asked: Sample, changes: Sequence[Change], model: Model, seed: int) -> list[tuple[Sample, Model, Drawing]]:
    """The models of `then`, after `model`, each with images of zeros as its condition.

    Raises UserError if the condition of a model is not an image of the model before it, or its classes are others.
    """
    found, labels = [], [*model.restored.labels]
    for k, ckpt in enumerate(asked.then, start=1):
        before, restored = model.shape, opened(ckpt, asked.weights)
        own: dict[str, Any] = {"ckpt": ckpt, "then": []}
        if not restored.labels:
            own |= {"label": None, "labels": None}
        elif [*restored.labels] != labels:
            raise UserError(f"then={ckpt}: its classes are others than those of the first model; choose another")
        its = [each for each in changes if each.part not in ("guidance", "data")]  # which are for the first model
        settings, model = completed(asked.model_copy(update=own), restored, its), Model(restored, model.device)
        condition = condition_of(settings.condition, restored.facts, model.shape)
        shapes = [*condition.shapes(model.shape).values()] if condition else []
        if condition is None or shapes != [before]:
            wanted = " and ".join(str([*each]) for each in shapes) or "nothing, as it was trained without a condition"
            raise UserError(f"then={ckpt}: it is given {wanted}; the one before it draws {[*before]}")
        given = Given(condition, model.shape, model.kind, "a cascade", named=condition.own(torch.zeros(1, *before)))
        drawing = Request.of(settings, given=given).drawing(restored)
        # with the seed of the first model, its noise would begin with that of the first model
        found.append((settings, model, replace(drawing, seed=seed_for(seed, "then", k))))
    return found


def enlargement(drawing: Drawing, images: Tensor) -> Drawing:
    """The drawing of a model of `enlarging` from uint8 images (n, C, h, w) of the one before."""
    assert drawing.given is not None
    named = drawing.given.condition.own(drawing.kind.filled(drawing.kind.inside(images)))
    return replace(drawing, given=replace(drawing.given, named=named))
