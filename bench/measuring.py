"""Shared by several benchmarks: clocks, memory and ratios."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

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
