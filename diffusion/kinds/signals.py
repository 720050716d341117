"""`Signals`: series of numbers in one dimension, such as sounds and readings of sensors, drawn as lines."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from PIL import Image, ImageDraw
from torch import Tensor

from diffusion.base.arrays import table
from diffusion.errors import UserError, refusing
from diffusion.kinds.kind import Kind, Part, Shape, Source
from diffusion.kinds.measured import SHOWN, TEXT, Measured
from diffusion.metric.measurements import statistics

WIDTH, HEIGHT = 192, 64  # of a picture, in pixels
COLOURS = "#1f77b4", "#d95f02", "#2a9d5c", "#7a4fb5", "#8c6d1f"  # of the channels, in turn
BANDS, LAGS = 32, 32  # at most, of a spectrum and of autocorrelations


@dataclass(frozen=True)
class Signals(Measured):
    """Signals (N, C, L) of C channels, standardised as measurements are; NaN are missing values.

    Args:
        rate: The values per second of all .wav files; 0: there are none.
    """

    name: ClassVar[str] = "signals"
    examples: ClassVar[str] = "signals"
    features: ClassVar[str] = "eyes"
    axes: ClassVar[int] = 1
    refused: ClassVar[Mapping[str, str]] = {
        task: reason.replace("measurements", "signals") for task, reason in Measured.refused.items()
    } | {"crops": "they are of pictures, but the data are signals; use shorter windows (data.resolution)"}

    rate: Annotated[int, Ge(0)] = 0

    # files

    def pieces(self, name: str, file: Path) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Also the columns of a .csv, with a row for each time, and the channels of a .wav."""
        match file.suffix.lower():
            case ".csv":
                yield name, lambda: table(file)[1]
            case ".wav":
                yield name, lambda: self.sound(file)
            case _:
                yield from super().pieces(name, file)

    def channels_in(self, file: Path) -> list[str]:
        return table(file)[0] if file.suffix.lower() == ".csv" else super().channels_in(file)

    def sound(self, file: Path) -> np.ndarray:
        """The channels of a .wav file, (C, L); integers are divided by their range, so that they lie in [−1, 1)."""
        from scipy.io import wavfile  # slow to import

        rate, values = wavfile.read(file)
        if rate != self.rate:
            raise UserError(f"{file}: {rate} values per second, but data.kind.rate={self.rate}; change one of them")
        return np.atleast_2d(values.T) / (-np.iinfo(values.dtype).min if values.dtype.kind == "i" else 1)

    def cut(self, array: np.ndarray, shape: Shape) -> Iterator[tuple[str, np.ndarray]]:
        """Windows that do not overlap."""
        for start in range(0, array.shape[1] - shape[1] + 1, shape[1]):
            yield f" from {start}" if array.shape[1] > shape[1] else "", array[:, start : start + shape[1]]

    def read_all(self, source: Source, shape: Shape, setting: str = "given") -> Tensor:
        """A shorter series ends with missing values, which can be filled."""
        with refusing(setting, "; expected a .npy, .csv or .wav file"):
            file = Path(source).expanduser() if isinstance(source, str | Path) else None
            read = [read() for _, read in self.pieces(file.name, file)] if file else [np.asarray(source)]
            arrays = [np.atleast_2d(array) for array in read]
        for array in arrays:
            if array.ndim != 2 or array.shape[0] != shape[0] or array.shape[1] > shape[1]:
                found = "×".join(map(str, array.shape))
                raise UserError(f"{setting}: got {found} numbers; expected {shape[0]}×{shape[1]}, or a shorter series")
        rows = [torch.from_numpy(np.array(array, dtype=np.float32)) for array in arrays]
        return torch.stack([F.pad(row, (0, shape[1] - row.shape[1]), value=torch.nan) for row in rows])

    def part(self, source: Source, mask: Source, shape: Shape) -> Part:
        """The times `mask`, such as 16:32 or 48:, and values that are missing, are filled."""
        array, (first, colon, last) = self.read(source, shape), str(mask).partition(":")
        if not colon or not (first + last).isdecimal():
            raise UserError(f"mask={mask}: expected the times to fill, the last of them excluded, such as 16:32 or 48:")
        fill = array.isnan()
        fill[:, int(first or 0) : int(last or shape[1])] = True
        return Part(array, fill, self.pictures(torch.stack([array, array.masked_fill(fill, torch.nan)])))

    def save(self, example: Tensor, stem: Path, like: str = "") -> None:
        """Also as a file like the user's own: STEM.csv, STEM.wav, or else STEM.npy, float32 (C, L)."""
        Kind.save(self, example, stem)
        if like.lower() == ".csv":
            np.savetxt(stem.with_suffix(".csv"), example.T, "%.9g", ",", header=",".join(self.names), comments="")
        elif like.lower() == ".wav":
            from scipy.io import wavfile

            wavfile.write(stem.with_suffix(".wav"), self.rate, example.T.numpy())
        else:
            np.save(stem.with_suffix(".npy"), example.numpy())

    # looking at it

    def pictures(self, examples: Tensor, real: Tensor | None = None) -> Tensor:
        """A line for each channel, uint8 (N, 3, HEIGHT, WIDTH), broken where values are missing."""
        level = (0.5 - self.inside(examples) / SHOWN).clamp(0, 1) * (HEIGHT - 1)
        across = np.linspace(0, WIDTH - 1, level.shape[2])
        found = np.empty((len(level), 3, HEIGHT, WIDTH), np.uint8)
        for n, channels in enumerate(level.cpu().numpy()):
            picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
            for c, y in enumerate(channels):
                for i in np.flatnonzero(~np.isnan(y[:-1] + y[1:])):
                    line = across[i], y[i], across[i + 1], y[i + 1]
                    ImageDraw.Draw(picture).line(line, COLOURS[c % len(COLOURS)])
            found[n] = np.asarray(picture).transpose(2, 0, 1)
        return torch.from_numpy(found)

    def legend(self, picture: Image.Image) -> Image.Image:
        """The picture above the range of each channel, in the colour of its line."""
        whole = Image.new("RGB", (max(picture.width, 260), picture.height + TEXT * len(self.names) + 4), "white")
        whole.paste(picture)
        for c, text in enumerate(self.ranges):
            ImageDraw.Draw(whole).text((2, picture.height + TEXT * c), text, COLOURS[c % len(COLOURS)])
        return whole

    # scores

    def referee_view(self, examples: Tensor) -> Tensor:
        return self.filled(self.inside(examples))

    def eyes(self, shape: Shape) -> Mapping[str, Any]:
        return {"spectrum": spectrum, "autocorrelations": autocorrelations, "values": statistics}


def spectrum(z: Tensor, generator: torch.Generator) -> Tensor:
    """The logarithm of the power in at most BANDS bands of frequencies, (B, C, L) -> (B, C·bands)."""
    power = torch.fft.rfft(z * torch.hann_window(z.shape[2] + 2)[1:-1]).abs().square()[:, :, 1:]
    return F.adaptive_avg_pool1d(power, min(BANDS, power.shape[2])).clamp(min=1e-6).log().flatten(1)


def autocorrelations(z: Tensor, generator: torch.Generator) -> Tensor:
    """The means of z_i z_{i+k} for k = 1 … LAGS at most, (B, C, L) -> (B, C·lags)."""
    lags = range(1, min(LAGS, z.shape[2] - 1) + 1)
    return torch.stack([(z[:, :, k:] * z[:, :, :-k]).mean(dim=2) for k in lags], dim=2).flatten(1)
