"""Pictures of a denoiser of points beside the best one: fields of the score, paths from noise to data, densities."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from diffusion.base.pixels import LIMIT, grid, save_png
from diffusion.process.denoiser import Denoiser
from diffusion.process.likelihood import flow_likelihood
from diffusion.process.mixture import Exact
from diffusion.randomness import Streams

TIMES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)
ARROWS, FINE, COARSE = 21, 120, 56  # squares along a side: of a field, of a density, of the network's density
PATHS = 80
SIZE = 4.2  # inches of a picture


def plane(n: int, device: torch.device) -> Tensor:
    """The centres of n × n squares, row by row from the top, (n², 2, 1, 1)."""
    axis = LIMIT * ((2 * torch.arange(n, device=device) + 1) / n - 1)
    return torch.cartesian_prod(-axis, axis).flip(1).view(-1, 2, 1, 1)


@torch.no_grad()
def draw_truth(denoiser: Denoiser, exact: Exact, drawing: Any, device: torch.device, folder: Path) -> None:
    """Write field.png, with a row for each of `TIMES`, paths.png and densities.png: exact, then by the network.

    The density of the network is that of its probability flow.
    """
    (arrows, fine, coarse), both = (plane(n, device) for n in (ARROWS, FINE, COARSE)), (exact.to(device), denoiser)

    def density(time: float) -> np.ndarray:
        return exact.log_density(fine, fine.new_full((len(fine),), time)).exp().cpu().numpy()

    def path(denoise: Any) -> np.ndarray:
        steps = list[Tensor]()
        drawing(denoise, PATHS, device, PATHS, watch=lambda first, k, x, estimate: steps.append(x.flatten(1).cpu()))
        return torch.stack(steps).numpy()

    times = [(density(t), arrows.new_full((len(arrows),), t)) for t in TIMES]
    data, streams = density(0), Streams.of(len(coarse), "density", device=device)
    learned = 2 ** (-2 * flow_likelihood(denoiser, coarse, streams, 0.01, 1e-3, discrete=False).cpu().numpy())
    for name, pictures in {
        "field": [picture(heat, -each(arrows, t).eps) for heat, t in times for each in both],
        "paths": [picture(data, paths=path(each)) for each in both],
        "densities": [picture(each, most=data.max()) for each in (data, learned)],
    }.items():
        rows = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        save_png(grid(rows, 2, times=TIMES[: len(rows) // 2]), folder / f"{name}.png")


def picture(
    density: np.ndarray, field: Tensor | None = None, paths: np.ndarray | None = None, most: float | None = None
) -> np.ndarray:
    """A density (n²,) as colours, up to `most`, under a field (n², 2, 1, 1) or paths (steps, n, 2); uint8 (H, W, 3)."""
    figure = Figure((SIZE, SIZE))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT))
    heat = density.reshape(round(len(density) ** 0.5), -1)
    top = most or 1.3 * heat.max()  # white is left for the arrows
    ax.imshow(heat, "magma", extent=(-LIMIT, LIMIT) * 2, vmin=0, vmax=top, interpolation="bilinear")
    if field is not None:
        at, to = (each.flatten(1).cpu().numpy() for each in (plane(ARROWS, field.device), field))
        shortened = to / (1 + np.linalg.norm(to, axis=1, keepdims=True))  # to less than the distance of two arrows
        ax.quiver(*at.T, *shortened.T, color="white", scale=ARROWS / 1.4)
    if paths is not None:
        ax.plot(*paths.transpose(2, 0, 1), color="white", linewidth=0.6, alpha=0.7)
        ax.plot(*paths[-1].T, "o", color="tab:orange", markersize=3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
