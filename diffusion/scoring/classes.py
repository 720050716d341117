"""The scores of samples by class: of each class against real images of that class."""

from copy import copy
from dataclasses import replace
from typing import Any

from torch import Tensor

from diffusion.base.console import console
from diffusion.checkpoint.restore import Restored
from diffusion.errors import UserError
from diffusion.metric.record import FEW, Score
from diffusion.metric.score import LEAST
from diffusion.scoring.likelihood import has_classes_of
from diffusion.scoring.pipeline import Scorer


def check_classes(scorer: Scorer, restored: Restored) -> None:
    """Raise UserError if the model has no classes, or real images of these classes are not known."""
    if not restored.labels:
        raise UserError("by_class=true: the model has no classes, as it was trained without labels; remove it")
    if scorer.given:
        raise UserError(
            f"by_class=true: the classes of reference={scorer.given.name} are not known; remove one of both"
        )
    if not has_classes_of(scorer.data, restored):
        ours, theirs = (", ".join(names) or "none" for names in (restored.labels, scorer.data.classes))
        raise UserError(f"by_class=true: the model's classes are {ours}, those of data are {theirs}; set data.labels")


def score_classes(scorer: Scorer, images: Tensor, classes: Tensor, **source: Any) -> list[Score]:
    """Score the samples (n, C, *size) of each of the `classes` (n,), as `class NAME`; notes say which have too few."""
    found, few, every = list[Score](), 0, scorer.data.splits[scorer.split]
    for i, name in enumerate(scorer.data.classes):
        samples, real = images[classes == i], every.take((every.labels == i).nonzero()[:, 0])  # type: ignore[union-attr]
        least = min(len(samples), len(real))
        few += least < FEW
        try:
            if least < LEAST:
                raise UserError(f"{len(samples)} samples, {len(real)} real images; scores need at least {LEAST}")
            data = copy(scorer.data)
            data.splits = {scorer.split: real}
            found += replace(scorer, data=data).score(samples, f"class {name}", **source)
        except UserError as error:  # the other classes have scores
            console.print(f"note: class {name} is not scored: {error}")
    if few:
        of = f"{few} of {len(scorer.data.classes)} classes have fewer than {FEW} samples or real images"
        console.print(f"note: {of}: their distances are mostly chance and bias")
    return found
