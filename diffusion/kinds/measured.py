"""`Measured`: measurements, which are float32 in units of their own outside of the diffusion process."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Gt
from PIL import Image, ImageDraw
from torch import Tensor

from diffusion.base.arrays import array_of, pieces
from diffusion.errors import UserError, refusing
from diffusion.kinds.kind import Kind, Part, Shape, Source
from diffusion.kinds.pixels import GREY, read_picture
from diffusion.metric.referee import LEAST, eyes_of_values
from diffusion.randomness import to_device

SHOWN = 3.0  # deviations from the mean, on both sides, that the colours of a picture span
MISSING = 128, 128, 128  # the colour of a missing value
BAR, TEXT = 12, 14  # the heights of a bar of colours and of a line of text, in pixels
LEVELS = "it decodes levels of 8 bits, but these are measurements; remove it, and see CRPS with condition=channels"


@dataclass(frozen=True)
class Measured(Kind):
    """Measurements (N, C, H, W) of C channels, of which NaN are missing values: in the process (x − mean)/(2 std).

    There each channel of the training images has the mean 0 and the deviation 0.5, that of usual photographs.
    """

    name: ClassVar[str] = "measured"
    examples: ClassVar[str] = "measurements"
    features: ClassVar[str] = "measurements"
    metrics: ClassVar[str] = "measurements"
    refused: ClassVar[Mapping[str, str]] = {
        "audit": "it compares pictures of 8 bits, but these are measurements; remove it",
        "augmentation": "it resamples the values, but the data are measurements; set augmentation=none",
        "bits": LEVELS,
        "condition=edges": "they are those of a picture's grey levels, but the data are measurements; use lowres",
        "condition=grey": "measurements have no colours; use condition=channels or lowres",
        "condition=mask": "it divides bright from dark parts of a picture, but the data are measurements; use lowres",
        "export --format diffusers": "its pipelines draw 8-bit pictures, not measurements; export a safetensors file",
        "export --format web": "a page draws 8-bit pictures, but this model draws measurements; use diffusion sample",
        "likelihood=bound": LEVELS,
        "sampler.threshold": "measurements have no limits to clip at; set sampler.threshold=null",
        "studio": "it shows pictures of 8 bits, but this model draws measurements; use diffusion sample or edit",
    }  # fmt: skip

    mean: list[float] = field(default_factory=lambda: [0.0])
    std: list[Annotated[float, Gt(0)]] = field(default_factory=lambda: [1.0])
    names: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)  # "" for none

    @property
    def figures(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def quantities(self) -> list[str]:
        return self.names

    @property
    def ranges(self) -> list[str]:
        """For each channel, the values that its picture spans."""
        found = []
        for name, unit, mean, std in zip(self.names, self.units, self.mean, self.std, strict=True):
            found.append(f"{name}: {mean - SHOWN * std:.4g} to {mean + SHOWN * std:.4g} {unit}".rstrip())
        return found

    def described(self, shape: Shape) -> str:
        return f"{self.examples} of {shape[0]} × {'×'.join(map(str, shape[1:]))} values"

    def inside(self, examples: Tensor) -> Tensor:
        return (examples.float() - column(self.mean, examples)) / (2 * column(self.std, examples))

    def outside(self, x: Tensor) -> Tensor:
        return x.float() * (2 * column(self.std, x)) + column(self.mean, x)

    # looking at it

    def pictures(self, examples: Tensor, real: Tensor | None = None) -> Tensor:
        """uint8 (N, 3, H, C·W): the channels side by side, by matplotlib's map viridis; missing values are grey."""
        level = self.inside(examples) / SHOWN + 0.5
        colours = viridis()[(255 * level.nan_to_num().clamp(0, 1)).round().long().cpu()]  # (N, C, H, W, 3)
        colours[examples.isnan().cpu()] = torch.tensor(MISSING, dtype=torch.uint8)
        return colours.permute(0, 4, 2, 1, 3).flatten(3)

    def legend(self, picture: Image.Image) -> Image.Image:
        """The picture above the bar of its colours, and the values at both ends of it for each channel."""
        lines = self.ranges
        width = max(picture.width, 8 * max(map(len, lines)))
        whole = Image.new("RGB", (width, picture.height + BAR + 6 + TEXT * len(lines)), "white")
        whole.paste(picture)
        bar = Image.fromarray(viridis().numpy()[None]).resize((picture.width, BAR))
        whole.paste(bar, (0, picture.height + 4))
        draw = ImageDraw.Draw(whole)
        for i, line in enumerate(lines):
            draw.text((2, picture.height + BAR + 5 + TEXT * i), line, "black")
        return whole

    # a user's files

    def read(self, source: Source, shape: Shape, setting: str = "image") -> Tensor:
        """One array of exactly this shape, in the units of the training files."""
        found = self.read_all(source, shape, setting)
        if found.shape != (1, *shape):
            raise UserError(f"{setting}: got {'×'.join(map(str, found.shape))} numbers; expected one array of {shape}")
        return found[0]

    def read_all(self, source: Source, shape: Shape, setting: str = "given") -> Tensor:
        if isinstance(source, str | Path):
            return array_of(Path(source).expanduser(), shape, setting)
        found = torch.as_tensor(np.asarray(source), dtype=torch.float32)
        return found if found.ndim > len(shape) else found[None]

    def read_free(self, source: Source, channels: int, setting: str) -> Tensor:
        if not isinstance(source, str | Path):
            found = np.asarray(source, dtype=np.float32)
        else:
            place, wanted = Path(source).expanduser(), f"expected one array ({channels}, height, width)"
            with refusing(f"{setting}={place}", f"; {wanted}"):
                ((_, read),) = pieces(place.name, place)
                found = np.asarray(read(), dtype=np.float32)
        found = found[None] if found.ndim == 2 else found
        if found.ndim != 3 or len(found) != channels:
            got = "×".join(map(str, found.shape))
            raise UserError(f"{setting}: got {got} numbers; expected one array ({channels}, height, width)")
        return torch.tensor(found)

    def enlarged(self, example: Tensor, size: Sequence[int]) -> Tensor:
        return F.interpolate(example[None], tuple(size), mode="bicubic")[0]

    def part(self, source: Source, mask: Source, shape: Shape) -> Part:
        """The values under the white part of a picture, `mask`, and those that are missing, are filled."""
        array = self.read(source, shape)
        fill = (read_picture(mask, (1, *shape[1:]), "mask") > GREY) | array.isnan()
        return Part(array, fill, self.pictures(torch.stack([array, array.masked_fill(fill, torch.nan)])))

    def save(self, example: Tensor, stem: Path, like: str = "") -> None:
        """Also STEM.npy, float32 (C, H, W) in its units; or STEM.tif with a page for each channel."""
        super().save(example, stem)
        if like.lower() in (".tif", ".tiff"):
            first, *others = (Image.fromarray(channel) for channel in example.numpy())
            first.save(stem.with_suffix(".tif"), save_all=True, append_images=others)
        else:
            np.save(stem.with_suffix(".npy"), example.numpy())

    # scores

    def notice(self, shape: Shape) -> str:
        words = f"images below {LEAST} pixels: no scores of patches and convolutions, which need them"
        return words if min(shape[1:]) < LEAST else ""

    def eyes(self, shape: Shape) -> Mapping[str, Any]:
        return eyes_of_values(shape[1:])

    def compared(self, examples: Tensor) -> Tensor:
        """The values themselves as grey levels, without the colours of pictures."""
        level = self.inside(examples).nan_to_num() / SHOWN + 0.5
        return (255 * level.clamp(0, 1)).round().to(torch.uint8)


def column(numbers: Sequence[float], like: Tensor) -> Tensor:
    """One number for each channel, float32 (C, 1, …), on the device of `like` (N, C, *size)."""
    return to_device(torch.tensor(numbers), like.device).view(-1, *[1] * (like.ndim - 2))


def viridis() -> Tensor:
    """The colours of the map from low to high, uint8 (256, 3)."""
    from matplotlib import colormaps  # slow to import

    return torch.from_numpy(np.rint(255 * colormaps["viridis"](np.arange(256))[:, :3]).astype(np.uint8))


def figures_of(images: Tensor) -> tuple[list[float], list[float]]:
    """The mean and the deviation of each channel of examples (N, C, *size), without missing values; NaN for none.

    In two passes, so values far from 0 keep their digits. A constant channel has a deviation of exactly 0: in float64,
    sums of fewer than 2²⁹ equal float32 numbers are not rounded.
    """
    parts, others = images.split(256), (0, *range(2, images.ndim))
    n = sum((~part.isnan()).sum(others) for part in parts)
    mean = sum(part.double().nansum(others) for part in parts) / n
    column = mean.view(-1, *[1] * (images.ndim - 2))
    square = sum((part.double() - column).square().nansum(others) for part in parts) / n
    return mean.tolist(), square.sqrt().tolist()
