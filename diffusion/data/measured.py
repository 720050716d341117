"""`Measured`: measurements, which are float32 in units of their own outside of the diffusion process."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Gt
from PIL import Image, ImageDraw
from torch import Tensor

from diffusion.data.values import Values
from diffusion.randomness import to_device

SHOWN = 3.0  # deviations from the mean, on both sides, that the colours of a picture span
MISSING = 128, 128, 128  # the colour of a missing value
BAR, TEXT = 12, 14  # the heights of a bar of colours and of a line of text, in pixels


@dataclass(frozen=True)
class Measured(Values):
    """Measurements of C channels, of which NaN are missing values: in the process (x − mean)/(2 std).

    There each channel of the training images has the mean 0 and the deviation 0.5, that of usual photographs.
    """

    dtype: ClassVar[torch.dtype] = torch.float32
    mean: list[float]
    std: list[Annotated[float, Gt(0)]]
    names: list[str]
    units: list[str]  # "" for none

    @property
    def facts(self) -> dict[str, Any]:
        return {"measured": asdict(self)}

    def inside(self, images: Tensor) -> Tensor:
        return (images.float() - column(self.mean, images)) / (2 * column(self.std, images))

    def outside(self, x: Tensor) -> Tensor:
        return x.float() * (2 * column(self.std, x)) + column(self.mean, x)

    def pictures(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, C·W): the channels side by side, by matplotlib's map viridis; missing values are grey."""
        level = self.inside(images) / SHOWN + 0.5
        colours = viridis()[(255 * level.nan_to_num().clamp(0, 1)).round().long().cpu()]  # (N, C, H, W, 3)
        colours[images.isnan().cpu()] = torch.tensor(MISSING, dtype=torch.uint8)
        return colours.permute(0, 4, 2, 1, 3).flatten(3)

    def legend(self, picture: Image.Image) -> Image.Image:
        """The picture above the bar of its colours, and the values at both ends of it for each channel."""
        lines = []
        for name, unit, mean, std in zip(self.names, self.units, self.mean, self.std, strict=True):
            lines.append(f"{name}: {mean - SHOWN * std:.4g} to {mean + SHOWN * std:.4g} {unit}".rstrip())
        width = max(picture.width, 8 * max(map(len, lines)))
        whole = Image.new("RGB", (width, picture.height + BAR + 6 + TEXT * len(lines)), "white")
        whole.paste(picture)
        bar = Image.fromarray(viridis().numpy()[None]).resize((picture.width, BAR))
        whole.paste(bar, (0, picture.height + 4))
        draw = ImageDraw.Draw(whole)
        for i, line in enumerate(lines):
            draw.text((2, picture.height + BAR + 5 + TEXT * i), line, "black")
        return whole


def column(numbers: Sequence[float], like: Tensor) -> Tensor:
    """One number for each channel, float32 (C, 1, 1), on the device of `like`."""
    return to_device(torch.tensor(numbers), like.device).view(-1, 1, 1)


def viridis() -> Tensor:
    """The colours of the map from low to high, uint8 (256, 3)."""
    from matplotlib import colormaps  # slow to import

    return torch.from_numpy(np.rint(255 * colormaps["viridis"](np.arange(256))[:, :3]).astype(np.uint8))


def figures_of(images: Tensor) -> tuple[list[float], list[float]]:
    """The mean and the deviation of each channel of images (N, C, H, W), without missing values; NaN if none is left.

    In two passes, so values far from 0 keep their digits. A constant channel has a deviation of exactly 0: in float64,
    sums of fewer than 2²⁹ equal float32 numbers are not rounded.
    """
    parts = images.split(256)
    n = sum((~part.isnan()).sum((0, 2, 3)) for part in parts)
    mean = sum(part.double().nansum((0, 2, 3)) for part in parts) / n
    square = sum((part.double() - mean[:, None, None]).square().nansum((0, 2, 3)) for part in parts) / n
    return mean.tolist(), square.sqrt().tolist()
