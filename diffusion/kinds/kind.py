"""`Kind`: what the data of a model are made of; pixels, points, measurements, latents and signals are kinds.

A data set has a kind, and so has a trained model. Whatever depends on what the numbers mean is asked of it: how they
enter the diffusion process and leave it, what a missing value is, how they are looked at, how a user's file is read and
written, which scores suit them, and which tasks make sense. No other part of the program knows the kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from diffusion.base.arrays import pieces
from diffusion.base.pixels import grid, save_png
from diffusion.errors import UserError
from diffusion.randomness import Streams, seeds_for

if TYPE_CHECKING:
    from diffusion.metric.features import FeatureExtractor
    from diffusion.metric.referee import Eye

Shape = tuple[int, ...]
"""(C, *size) of one example, with one, two or three axes."""
Source = str | Path | Image.Image | np.ndarray | Tensor
"""What a user gives: a file, or its content in memory."""
FILMED = 8  # examples whose denoising steps are shown
NOISES = 64  # examples of noise that are made at a time


@dataclass(frozen=True)
class Part:
    """An example of which a part is to be filled."""

    example: Tensor
    """(C, *size), as the network sees it."""
    fill: Tensor
    """Where it is filled: bool, of a shape that broadcasts to the example."""
    before: Tensor
    """Pictures to show, uint8 (m, C, h, w)."""
    paste: Callable[[Tensor], list[Image.Image]] | None = None
    """Examples of the model (n, C, *size) -> the user's own picture with each of them in place of its part."""


class Kind:
    """Base class: numbers that enter the diffusion process as they are, with one, two or three axes.

    Examples (N, C, *size) are what files contain and users see. In the process they are x (N, c, *size'), float32. A
    subclass defines `inside` and `outside` if they differ, `pictures`, and what else is its own.
    """

    name: ClassVar[str]
    """In checkpoints."""
    dtype: ClassVar[torch.dtype] = torch.float32
    """Of examples."""
    examples: ClassVar[str] = "examples"
    """What they are called in messages."""
    features: ClassVar[str] = "auto"
    metrics: ClassVar[str] = "standard"
    """The choices of conf/features and conf/metrics that suit them."""
    refused: ClassVar[Mapping[str, str]] = {}
    """Tasks that make no sense -> why, and what to do instead; see `require`."""
    bounded: ClassVar[bool] = False
    """Whether x lies in [−1, 1], at which thresholds of x0 clip."""
    has_faults: ClassVar[bool] = False
    """Whether the faults of pictures are looked for in samples (`metric.faults`)."""
    discrete: ClassVar[bool] = False
    """Whether examples are levels of 8 bits, which likelihoods decode."""
    of_usual_deviation: ClassVar[bool] = True
    """Whether x has a deviation of about 1/2, for which noise levels and networks are made."""
    factor: ClassVar[int] = 1
    """A side of an example divided by the side of its x."""
    plane: ClassVar[bool] = False
    """Whether examples are points of the plane, all of which a page can show."""
    filmed: ClassVar[int] = FILMED
    """The number of samples whose denoising steps are shown."""
    unit: ClassVar[str] = "values"
    """What a size counts."""
    axes: ClassVar[int] = 2
    """The number of sides of an example."""

    @property
    def quantities(self) -> Sequence[str]:
        """The names of the channels, if each is a quantity with scores of its own."""
        return ()

    # its description

    @property
    def figures(self) -> dict[str, Any]:
        """What a checkpoint says about the kind of its data: the arguments that build it again, as plain data."""
        return {}

    def size(self, resolution: int | Sequence[int]) -> tuple[int, ...]:
        """The size of examples with `data.resolution`: (H, W) of pictures."""
        return (resolution,) * self.axes if isinstance(resolution, int) else tuple(resolution)

    def described(self, shape: Shape) -> str:
        """Examples of this shape in words: images of 32×32 pixels."""
        return f"{self.examples} of {'×'.join(map(str, shape[1:]))}"

    def protocol(self, shape: Shape) -> str:
        """The size of examples of this shape, and how they are read by features, as scores say it."""
        return f"{'x'.join(map(str, shape[1:]))} {shape[0]} channels"

    def require(self, task: str) -> None:
        """Raise UserError if a task makes no sense for this kind: one of the keys of `refused`."""
        if reason := self.refused.get(task):
            raise UserError(f"{task}: {reason}")

    @classmethod
    def allows(cls, task: str) -> bool:
        return task not in cls.refused

    # the diffusion process

    def space(self, shape: Shape) -> Shape:
        """(c, *size') in the process, of examples (C, *size)."""
        return shape

    def inside(self, examples: Tensor) -> Tensor:
        """Examples (N, C, *size) -> x, float32 (N, c, *size'); a missing value stays NaN, see `filled`."""
        return examples.float()

    def outside(self, x: Tensor) -> Tensor:
        """x (N, c, *size') -> examples (N, C, *size)."""
        return x.float()

    def filled(self, x: Tensor) -> Tensor:
        """x with 0, the mean, for what is missing."""
        return x.nan_to_num()

    def batch(self, examples: Tensor, streams: Callable[[], Streams]) -> Tensor:
        """The x of a training or validation batch, which may be random: of stored examples (B, …)."""
        return self.inside(examples)

    def attach(self, data: Any, device: torch.device, before: Callable[[], Mapping[str, Any] | None]) -> None:
        """Prepare the splits of a data set that has been set up, by the figures of an older model, or else its own."""

    def observing(self, operator: Callable[[Tensor], Tensor]) -> Any:
        """An operator of examples in [−1, 1] or standardised, as an operator of x."""
        return operator

    @property
    def outer(self) -> Kind:
        """The kind of the examples themselves; another one for latents, which are encoded examples."""
        return self

    # looking at it

    def pictures(self, examples: Tensor, real: Tensor | None = None) -> Tensor:
        """Examples (N, C, *size) to be looked at, perhaps over `real` ones: uint8 (m, c, h, w), mostly m = N."""
        raise NotImplementedError

    def legend(self, picture: Image.Image) -> Image.Image:
        """A picture of `pictures`, with what its colours and axes mean."""
        return picture

    def grid(self, examples: Tensor, real: Tensor | None = None, **options: Any) -> Image.Image:
        """One picture of many examples; `options` of `pixels.grid`."""
        return grid(self.pictures(examples, real), **options)

    def saturated(self, examples: Tensor) -> Tensor:
        """Which examples are at the limits of their values, bool (N,)."""
        return torch.zeros(len(examples), dtype=torch.bool)

    def draw_truth(self, denoiser: Any, exact: Any, draw: Callable[..., Any], device: torch.device, to: Path) -> None:
        """Draw figures of a denoiser beside the best one, `exact`, into the folder `to`, if this kind has some."""

    # the files of a data set

    def pieces(self, name: str, file: Path) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """The arrays (C, *size) in a file of this name, each with its name, and what reads it."""
        return pieces(name, file, self.axes)

    def channels_in(self, file: Path) -> list[str]:
        """The names of the channels in a file, in their order; numbers if it has none."""
        _, read = next(self.pieces(file.name, file))
        return [str(i + 1) for i in range(len(read()))]

    def cut(self, array: np.ndarray, shape: Shape) -> Iterator[tuple[str, np.ndarray]]:
        """The examples of this shape in an array (C, *size), each with the ending of its name; by default the centre.

        A name that ends with ` from 64` is that of a part; what stands before it is its source.
        """
        starts = [(side - wanted) // 2 for side, wanted in zip(array.shape[1:], shape[1:], strict=True)]
        centre = (slice(i, i + wanted) for i, wanted in zip(starts, shape[1:], strict=True))
        yield "", array[:, *centre]

    # a user's files

    def read(self, source: Source, shape: Shape, setting: str = "image") -> Tensor:
        """What a user gives as one example (C, *size). Raises UserError that names the `setting` for anything else."""
        (found,) = self.read_all(source, shape, setting)
        return found

    def read_all(self, source: Source, shape: Shape, setting: str = "given") -> Tensor:
        """What a user gives, perhaps a folder, as examples (m, C, *size)."""
        raise NotImplementedError

    def readable(self, channels: int, shape: Shape) -> bool:
        """Whether a file may hold this many channels, where examples have `shape`."""
        return channels == shape[0]

    def read_free(self, source: Source, channels: int, setting: str) -> Tensor:
        """What a user gives as one example of any size."""
        raise NotImplementedError

    def enlarged(self, example: Tensor, size: Sequence[int]) -> Tensor:
        """An example (C, *size) interpolated to a larger size, for comparison with what a model draws."""
        raise NotImplementedError

    def part(self, source: Source, mask: Source, shape: Shape) -> Part:
        """An example to be filled where the mask says so. Raises UserError for a mask that does not fit."""
        raise NotImplementedError

    def known(self, part: Part) -> tuple[Tensor, Tensor]:
        """x (1, c, *size') of an example to be filled, and where it is known, bool of the same size."""
        return self.filled(self.inside(part.example[None])), ~part.fill

    def save(self, example: Tensor, stem: Path, like: str = "") -> None:
        """Write a sample (C, *size) as a user opens it: STEM.png, and in files with the ending of `like`, if it can."""
        save_png(to_pil_image(self.pictures(example[None])[0]), stem.with_suffix(".png"))

    # scores

    def noise(self, n: int, shape: Shape) -> Tensor:
        """Examples of N(0, 1) noise, clamped to [−1, 1] in the process: a baseline of scores."""
        seeds = (seeds_for(0, "noise image", last=i.tolist()) for i in torch.arange(n).split(NOISES))
        outside = self.outer.outside
        return torch.cat([outside(Streams(each).normal(*shape).clamp(-1, 1)) for each in seeds])

    def ceiling(self, examples: Tensor, device: torch.device) -> Tensor | None:
        """The best that a model could draw of real examples, if the kind loses something."""
        return None

    def check_features(self, extractor: FeatureExtractor, shape: Shape) -> None:
        """Give the extractor what it needs to know of the kind. Raises UserError for one of another kind."""
        if extractor.kind not in ("", self.outer.name):
            raise UserError(f"features: {self.examples} need features={self.features} metrics={self.metrics}")
        extractor.suit(self, shape)

    def notice(self, shape: Shape) -> str:
        """What a user should know of the scores of examples of this shape."""
        return ""

    def referee_view(self, examples: Tensor) -> Tensor:
        """Examples as the referee's eyes see them: numbers in the range 0 … 255."""
        return 127.5 * (self.filled(self.inside(examples)) + 1)

    def eyes(self, shape: Shape) -> Mapping[str, Eye]:
        """The referee's eyes for examples of this shape; none: samples are not judged."""
        return {}

    def networks(self, extractor: FeatureExtractor) -> list[FeatureExtractor]:
        """Trained networks whose features are further eyes of the referee."""
        return []

    def compared(self, examples: Tensor) -> Tensor:
        """Examples as near-duplicates are found: pictures uint8 (N, C, h, w)."""
        return self.pictures(examples)
