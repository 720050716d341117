"""The denoising steps of samples: recorded during sampling, then shown as a GIF, or on a run's page."""

import copy
import json
from pathlib import Path

import torch
from torch import Tensor

from diffusion.data import to_uint8
from diffusion.process.denoiser import Estimate
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.report.images import FILM_TIMES, gif, grid, save_png

SHOWN = 8  # images
MOST_FRAMES = 100  # in a GIF
FILM_FRAMES = 25  # on a page


class Frames:
    """x and the estimate of x0 of the first images, at no more than `MOST_FRAMES` of the denoising steps."""

    def __init__(self, sampler: Sampler, schedule: Schedule):
        self.times = sampler.grid(copy.deepcopy(schedule).to("cpu"), sampler.steps).tolist()
        self.kept = spread(range(1, sampler.steps + 1), MOST_FRAMES)
        self.pairs: dict[int, tuple[Tensor, Tensor]] = {}  # by step

    def watch(self, first: int, k: int, x: Tensor, estimate: Estimate) -> None:
        """Keep step k of the first batch."""
        if first == 0 and k in self.kept:
            self.pairs[k] = to_uint8(x[:SHOWN]).cpu(), to_uint8(estimate.x0[:SHOWN]).cpu()

    def save(self, folder: Path) -> None:
        """Write trajectory.gif: x_t above the estimate of x0."""
        pictures = [grid(torch.cat(pair), len(pair[0]), large=True) for pair in self.pairs.values()]
        gif(pictures, folder / "trajectory.gif")

    def save_film(self, path: Path) -> None:
        """Write a grid with one row per step, for at most `FILM_FRAMES` steps: x_t of the images, then x0 estimates.

        The file's metadata contains the times t of the rows, next to the grid's layout.
        """
        chosen = spread([*self.pairs], FILM_FRAMES)
        rows = [torch.cat(self.pairs[k]) for k in chosen]
        times = json.dumps([self.times[k] for k in chosen])
        save_png(grid(torch.cat(rows), len(rows[0])), path, **{FILM_TIMES: times})


def spread(steps: "range | list[int]", most: int) -> list[int]:
    """At most `most` of the steps, evenly spread, including the first and the last."""
    return [steps[i] for i in torch.linspace(0, len(steps) - 1, min(most, len(steps))).round().long()]
