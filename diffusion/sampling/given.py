"""The conditions of samples: those of held-out images, or what the user gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from diffusion.base.console import count
from diffusion.base.files import digest, tensor_digest
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.data import ImageData, Split
from diffusion.data.conditions import Condition
from diffusion.errors import UserError, shown
from diffusion.kinds.kind import Kind, Shape
from diffusion.randomness import Streams, seeds_for
from diffusion.recipe.facts import ConditionFacts, Facts


@dataclass(frozen=True)
class Given:
    """The conditions of samples of this kind and `shape` (C, *size): sample i has that of row i mod m.

    The m rows are the examples of a `split`, or those of the tensors `named`, as `Condition.own` returns them.
    """

    condition: Condition
    shape: Shape
    kind: Kind
    words: str  # where they come from, as the source of a score says it
    split: Split | None = None
    named: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.named.values()))) if self.split is None else len(self.split)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: the images of the split alone, not the whole file that they are mapped from."""
        if self.split is None:
            return vars(self)
        stored = {name: rows.clone() for name, rows in self.split.stored.items()}
        return {**vars(self), "split": replace(self.split, images=self.split.images.clone(), stored=stored)}

    def rows(self, index: Sequence[int]) -> dict[str, Tensor]:
        """The tensors of the samples at `index`, by name, without the noise that `Condition.noised` may add."""
        chosen = torch.tensor([i % len(self) for i in index])
        if self.split is None:
            return {name: rows[chosen] for name, rows in self.named.items()}
        part = self.split.take(chosen)
        return self.condition.named(self.kind.filled(self.kind.inside(part.images)), part.stored)

    def __call__(self, index: Sequence[int], seed: int, device: torch.device) -> dict[str, Tensor]:
        """The denoiser's inputs for the samples at `index`: functions of (seed, i) and the condition of i."""
        named = {name: rows.to(device) for name, rows in self.rows(index).items()}
        streams = Streams(seeds_for(seed, "condition", last=index), device)
        return self.condition.inputs(named, streams, self.shape[1:])

    @property
    def key(self) -> str:
        """A hash of all that the conditions depend on."""
        part = self.split and {"images": self.split.images, **self.split.stored}
        how = type(self.condition).__name__, sorted(vars(self.condition).items())
        return digest(how, tensor_digest(part or self.named))

    def pictures(self, index: Sequence[int]) -> Tensor | None:
        """The pictures of the samples at `index`, uint8 (n, c, h, w) of the samples' size; None if there are none."""
        found = [rows for rows in self.rows(index).values() if rows.ndim > 2]
        return self.condition.shown(found[0], self.shape[1:], self.kind) if found else None


def condition_of(node: Mapping[str, Any] | None, facts: Facts, shape: Shape) -> Condition | None:
    """The condition of a trained model with these facts, by the settings `node`; None if it has none.

    Raises UserError if it is not the one that the model was trained with.
    """
    if facts.condition is None:
        return None
    made: Condition = make(node or {}, "condition", Condition)
    made.figures = facts.condition.figures
    found, trained = ConditionFacts.of(made, shape).shapes, facts.condition.shapes
    if found != trained:
        raise UserError(f"condition: it gives {found} for each image; the model was trained with {trained}")
    return made


def make_given(
    restored: Restored, node: Mapping[str, Any] | None, data: ImageData | Mapping[str, Any] | None,
    values: str | list[Any] | None = None, split: str = "val",
) -> Given | None:  # fmt: skip
    """The conditions of samples of a trained model, by the settings `node`; None for a model without a condition.

    Args:
        data: images that have been read with the condition, or their settings.
        values: what the user gives (`given_of`); None: the conditions of the images of a `split` of the data.
    """
    condition = condition_of(node, restored.facts, restored.shape)
    if condition is None:
        if values is not None:
            raise UserError("given: the model was trained without a condition; remove it")
        return None
    if values is not None:
        return given_of(values, condition, restored.shape, restored.kind)
    if not isinstance(data, ImageData):
        data = cast(ImageData, make(data or {}, "data", ImageData))
        data.condition = condition
        data.setup()
    return Given(condition, restored.shape, restored.kind, split, data.splits[split])


def given_of(values: str | list[Any], condition: Condition, shape: Shape, kind: Kind) -> Given:
    """The conditions that a user gives: a file, a folder of files in the order of their names, or numbers."""
    shapes, where = condition.shapes(shape), f"given={shown(values)}"
    (name, size), *others = shapes.items()
    if others:
        raise UserError(
            f"{where}: a sample needs all of {', '.join(shapes)}, which only held-out images have; remove it"
        )
    if isinstance(values, str):
        if len(size) < 2:
            raise UserError(f"{where}: the condition is {count(size[0], 'number')}; give them as given=[0.5,…]")
        return Given(condition, shape, kind, where, named=condition.own(condition.read(values, size, kind)))
    rows = values if isinstance(values[0], list) else [values]
    if len(size) > 1 or {*map(len, rows)} != {*size}:
        pictures = f"pictures of {'x'.join(map(str, reversed(size[1:])))} pixels"
        wanted = pictures if len(size) > 1 else count(size[0], "number")
        raise UserError(f"{where}: the condition {name} is {wanted}, for each image or for all of them")
    return Given(condition, shape, kind, where, named=condition.own(torch.tensor(rows)))
