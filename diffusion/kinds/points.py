"""`PlanePoints`: points of the plane, of which a picture shows many."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion.base.pixels import LIMIT
from diffusion.kinds.kind import Kind, Shape

PLANE = 520  # pixels; the side of a picture of points
GROUND, REAL, DRAWN = (20, 20, 30), (105, 105, 120), (255, 176, 60)  # its colours: samples over real points
PICTURES = "it needs pictures, but this model draws points; use diffusion sample or evaluate"


class PlanePoints(Kind):
    """Points of the plane, float32 (N, 2, 1, 1), which enter the diffusion process as they are."""

    name = "points"
    examples = "points"
    features = metrics = "points"
    bounded: ClassVar[bool] = True
    plane: ClassVar[bool] = True
    filmed: ClassVar[int] = 1000
    refused = dict.fromkeys(("edit", "audit", "studio", "likelihood=bound"), PICTURES) | {
        "finetune": "points have no photographs; train on them from the start",
        "files": "a point has no file of its own; images.npz has all",
    }

    def described(self, shape: Shape) -> str:
        return "points of the plane"

    def protocol(self, shape: Shape) -> str:
        return f"{'x'.join(map(str, shape[1:]))} points"

    def pictures(self, examples: Tensor, real: Tensor | None = None) -> Tensor:
        """All points in one picture, uint8 (1, 3, PLANE, PLANE), over the `real` ones."""
        canvas = torch.tensor(GROUND, dtype=torch.uint8).view(3, 1, 1).repeat(1, PLANE, PLANE)
        for colour, points in ((REAL, real), (DRAWN, examples)):
            if points is not None:
                x, y = (points.detach().cpu().double().flatten(1).nan_to_num(LIMIT) / LIMIT).T
                column, row = (((1 + each) / 2 * (PLANE - 1)).round().long() for each in (x, -y))
                inside = (column.clamp(1, PLANE - 2) == column) & (row.clamp(1, PLANE - 2) == row)
                dye = torch.tensor(colour, dtype=torch.uint8)[:, None]
                for across, down in product((-1, 0, 1), repeat=2):  # dots of 3×3 pixels
                    canvas[:, row[inside] + down, column[inside] + across] = dye
        return canvas[None]

    def draw_truth(self, denoiser: Any, exact: Any, draw: Callable[..., Any], device: torch.device, to: Path) -> None:
        from diffusion.kinds.truth import draw_truth  # slow to import

        draw_truth(denoiser, exact, draw, device, to)
