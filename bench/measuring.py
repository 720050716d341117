"""Shared by several benchmarks: clocks, memory, ratios, random images, a network that costs nothing."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion.data import ImageData
from diffusion.data.batches import Split

Moment = tuple[float, float]  # seconds of wall time and of CPU time, which a busy machine disturbs less


def now(device: torch.device | str = "cpu") -> float:
    """The wall time in seconds, after the device has finished its pending work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def moment(device: torch.device | str = "cpu") -> Moment:
    """The wall time and CPU time, after the device has finished its pending work."""
    return now(device), time.process_time()


def between(start: Moment, end: Moment) -> Moment:
    """The seconds from one moment to another."""
    return end[0] - start[0], end[1] - start[1]


def resident(which: str) -> int:
    """Resident memory of this process in bytes: now (VmRSS), at its peak (VmHWM), or without files (RssAnon)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Reset the peak, VmHWM (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def median_of_ratios(these: Sequence[float], those: Sequence[float]) -> str:
    """`1.012 [1.005, 1.019]`: the median of the pairs' ratios and its 95% interval (order statistics)."""
    ratios = sorted(a / b for a, b in zip(these, those, strict=True))
    n = len(ratios)
    k = max(0, int(n / 2 - 0.98 * n**0.5))
    return f"{statistics.median(ratios):.3f} [{ratios[k]:.3f}, {ratios[n - 1 - k]:.3f}]"


class Free(nn.Module):
    """A network with one parameter, which costs almost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x * self.scale


class MadeUp(ImageData):
    """Images of random pixels: `images` for training, `held_out` for validation."""

    def __init__(self, images: int, resolution: int, batch_size: int, held_out: int = 8):
        super().__init__(resolution, batch_size=batch_size)
        self.images, self.held_out = images, held_out

    def load(self) -> dict[str, Split]:
        draws = torch.Generator().manual_seed(0)

        def split(name: str, n: int) -> Split:
            pixels = torch.randint(0, 256, (n, *self.shape), dtype=torch.uint8, generator=draws)
            return Split(pixels, [f"{name}{i}" for i in range(n)])

        return {"train": split("train", self.images), "val": split("val", self.held_out), "test": split("test", 0)}
