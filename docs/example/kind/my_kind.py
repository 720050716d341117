from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion.kinds.kind import Shape
from diffusion.kinds.measured import Measured


@dataclass(frozen=True)
class MyKind(Measured):
    """Histograms, (N, 1, L) with L counts each, shown as bars.

    `Measured` standardises their values for the diffusion process (`inside` and `outside`), leaves out missing ones
    (NaN), and reads and writes their files. `Kind` has all that a kind can change.

    Args:
        height: Of a picture, in pixels.
    """

    name: ClassVar[str] = "my_kind"  # in checkpoints
    examples: ClassVar[str] = "histograms"  # in messages
    features: ClassVar[str] = "eyes"  # of scores: those of the eyes below
    axes: ClassVar[int] = 1  # sides of an example: (C, L)
    refused: ClassVar[Mapping[str, str]] = {  # task -> why it makes no sense; see `Kind.require`
        **Measured.refused,
        "augmentation": "it turns and stretches pictures; set augmentation=none",
    }

    height: int = 48

    def pictures(self, examples: Tensor, real: Tensor | None = None) -> Tensor:
        """uint8 (N, 1, height, 4 L): black bars, whose highest fills the picture."""
        share = examples.nan_to_num() / examples.nan_to_num().amax(dim=-1, keepdim=True).clamp(min=1e-6)
        level = torch.arange(self.height, 0, -1, device=share.device).view(1, -1, 1) / self.height
        picture = torch.where(share >= level, 0, 255).to(torch.uint8)  # (N, height, L)
        return picture.repeat_interleave(4, dim=2)[:, None].cpu()

    def legend(self, picture: Any) -> Any:
        return picture

    def eyes(self, shape: Shape) -> Mapping[str, Any]:
        """What tells samples from real examples: (x (N, 1, L) in the process, a generator) -> numbers (N, D)."""
        return {"bars": lambda x, _: x.flatten(1), "changes": lambda x, _: x.diff(dim=2).flatten(1)}

    def referee_view(self, examples: Tensor) -> Tensor:
        """Examples as the eyes get them."""
        return self.filled(self.inside(examples))
