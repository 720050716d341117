"""What can be asked of a model besides samples: variants of an example, inverse problems, enlargements, blends."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from diffusion.base.console import console
from diffusion.base.pixels import grid, reduced
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.data import Split
from diffusion.errors import UserError
from diffusion.kinds.kind import Kind, Shape, Source
from diffusion.process.editing import Inpainting, SDEdit
from diffusion.process.operators import MaskOperator, Observation, observe
from diffusion.randomness import Streams
from diffusion.sampling.drawing import Drawing
from diffusion.sampling.given import Given, condition_of
from diffusion.sampling.request import Request

STRENGTH = 0.6  # default for SDEdit
NOISE = 0.02  # default of the noise of observations: 2.5 of 255 grey levels
COLUMNS = 12  # of grid.png, at most

Node = Mapping[str, Any]
Paste = Callable[[Tensor], list[Image.Image]]
"""Images of the model, uint8 (n, C, h, w) -> pictures of the user."""


class Edited(NamedTuple):
    """A drawing, changed; the user's pictures to show, uint8 (m, C, H, W); what to do with the images that it draws."""

    drawing: Drawing
    before: Tensor | None = None
    paste: Paste | None = None  # into the user's picture
    size: tuple[int, ...] | None = None  # to keep from the first corner; None: all


class EditRequest:
    """What is asked of a model besides how it draws; this one asks for samples alone."""

    fills: ClassVar[bool] = False  # whether part of a picture is filled, see `inheritance.inherited`

    def of(self, restored: Restored, how: Request) -> Edited:
        """The drawing of a model, edited. Raises UserError for what does not suit the model."""
        return self.edited(how.drawing(restored))

    def edited(self, drawing: Drawing) -> Edited:
        return Edited(drawing)


@dataclass(frozen=True)
class Variants(EditRequest):
    """Variants of a picture, or of other data of a user, by SDEdit."""

    picture: Source
    strength: float = STRENGTH

    def edited(self, drawing: Drawing) -> Edited:
        kind = drawing.kind
        kind.require("edit")
        example = kind.read(self.picture, drawing.shape)
        sampler = SDEdit(drawing.sampler, kind.filled(kind.inside(example[None]))[0], self.strength)
        return Edited(replace(of_picture(drawing, example), sampler=sampler), kind.pictures(example[None]))


@dataclass(frozen=True)
class Filling(EditRequest):
    """A picture, filled where its mask is white and where values are missing, by a method of conf/inpainting."""

    picture: Source
    mask: Source
    method: Node
    fills: ClassVar[bool] = True

    def edited(self, drawing: Drawing) -> Edited:
        kind = drawing.kind
        kind.require("edit")
        part = kind.part(self.picture, self.mask, drawing.shape)
        x, known = kind.known(part)
        if not bool(known.any()):
            raise UserError(
                "mask: it touches all that the network knows of the picture, so nothing is kept; use a smaller one, or "
                "`sample`"
            )
        here = MaskOperator(known)
        seen = Observation(here, tuple(x.shape[1:]), here(x))
        return Edited(answering(of_picture(drawing, part.example), seen, self.method), part.before, part.paste)


@dataclass(frozen=True)
class Solutions(EditRequest):
    """Images of which a linear operator makes what is observed; see `observation_of`."""

    picture: Source
    operator: Node
    method: Node
    noise: float | None = None
    observed: bool = False
    fills: ClassVar[bool] = True

    def edited(self, drawing: Drawing) -> Edited:
        drawing.kind.require("edit")
        seen, before = observation_of(
            self.operator, self.picture, drawing.shape, self.noise, self.observed, drawing.seed, drawing.kind
        )
        return Edited(answering(drawing, seen, self.method), before)


@dataclass(frozen=True)
class Enlargement(EditRequest):
    """A picture of any size, enlarged by the factor of a model's condition.

    For comparison, `before` is the picture interpolated without the model. One that is smaller than those that
    the model is given is continued by its reflection.
    """

    picture: Source

    def of(self, restored: Restored, how: Request) -> Edited:
        """Raises UserError if the model does not enlarge pictures."""
        shape, kind = restored.shape, restored.kind
        if how.given is not None:
            raise UserError("given: the condition of an enlargement is its picture; remove it")
        condition = condition_of(how.condition, restored.facts, shape)
        if condition is None or condition.factor == 1:
            raise UserError("upscale: the model does not enlarge pictures; choose one of experiment=superres")
        channels, *smallest = shape
        factor, image = condition.factor, kind.read_free(self.picture, channels, "upscale")
        size = [factor * side for side in image.shape[1:]]
        missing = [max(0, side // factor - own) for side, own in zip(smallest, image.shape[1:], strict=True)]
        padding = [(0, 0), *((0, each) for each in missing)]
        padded = torch.from_numpy(np.pad(image.numpy(), padding, "reflect"))
        x = kind.filled(kind.inside(padded[None]))
        given = Given(condition, shape, kind, "the picture", named=condition.own(x))
        drawing = replace(how, given=given).drawing(restored)
        console.print(f"{'x'.join(map(str, image.shape[:0:-1]))} to {'x'.join(map(str, size[::-1]))} {kind.unit}")
        whole = channels, *(max(pair) for pair in zip(smallest, size, strict=True))
        if whole != shape:
            windows = (smallest[0], smallest[1]), factor
            drawing = replace(drawing, given=replace(given, shape=whole), shape=whole, windows=windows)
        before = kind.pictures(kind.enlarged(image, size)[None])
        return Edited(drawing, reduced([*map(to_pil_image, before)]), size=tuple(size))


@dataclass(frozen=True)
class Blend(EditRequest):
    """Images between image 0 of one seed and image 0 of another (`process.editing.Between`)."""

    first: int
    last: int

    def edited(self, drawing: Drawing) -> Edited:
        return Edited(replace(drawing, seed=self.first, between=(self.first, self.last)))


def of_picture(drawing: Drawing, example: Tensor) -> Drawing:
    """`drawing` with the condition of an example (C, *size), if it can be computed and the user gives no other."""
    given = drawing.given
    if given is None or given.split is None or given.condition.attached:
        return drawing
    return replace(drawing, given=replace(given, words="the picture", split=Split(example[None], ["picture"])))


def observation_of(
    operator: Node, source: Source, shape: Shape, noise: float | None, already: bool, seed: int, kind: Kind
) -> tuple[Observation, Tensor]:
    """An observation by a choice of conf/operator; and the pictures to show, uint8 (m, C, h, w).

    The operator is applied to pixels in [−1, 1], which latents are decoded to, or to standardised measurements.

    Raises UserError for an operator that does not suit the data, or a picture that does not suit the operator.

    Args:
        already: the picture is what the operator made; otherwise the operator is applied, and noise added by the seed.
    """
    made, noise, own = make(operator, "operator"), NOISE if noise is None else noise, kind.outer
    (channels, *size), same = observe(made, torch.zeros(shape), 0, Streams([seed]))[0].shape, len(shape) - 1
    examples = [] if already else [own.read(source, shape)]
    if examples:
        y = observe(made, own.inside(examples[0][None])[0], noise, Streams.of(1, seed, "observation"))
    elif len(size) == same and own.readable(channels, shape):
        y = own.inside(own.read(source, (channels, *size))[None])
    else:
        raise UserError(f"observed: what the operator makes is no picture, but {(channels, *size)}; set observed=false")
    if y.isnan().any():
        raise UserError("image: some of its values are missing; fill them first, with mask=MASK")
    if len(size) == same and channels in (1, shape[0]):
        examples.append(F.interpolate(own.outside(y), shape[1:])[0].expand(shape))
    shown = own.pictures(torch.stack([*examples, torch.zeros(shape, dtype=own.dtype)])[:-1])
    return Observation(kind.observing(made), kind.space(shape), y, noise), shown


def kept(images: Tensor, size: tuple[int, ...] | None) -> Tensor:
    """The first corner of images (n, C, *size'), see `Edited.size`."""
    for axis, side in enumerate(size or (), start=2):
        images = images.narrow(axis, 0, side)
    return images


def answering(drawing: Drawing, observation: Observation, method: Node) -> Drawing:
    """`drawing`, changed to draw images with this observation, by a method of conf/inpainting."""
    how: Callable[..., Inpainting] = make(method, "inpainting")
    return replace(drawing, sampler=how(drawing.sampler, observation))


def overview(before: Tensor, images: Tensor) -> Image.Image:
    """One picture: a row with the user's pictures, if any, and the drawn images below it."""
    columns = max(min(len(images), COLUMNS), len(before))
    padding = images.new_full(((columns - len(before)) * bool(len(before)), *images.shape[1:]), 255)
    return grid(torch.cat([before, padding, images]), columns, large=True)
