from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from diffusion.model.network import Network, TimeEmbedding


class MyNetwork(Network):
    """Residual 3×3 convolutions, told the noise level and the class by a scale a and a shift b of each channel:

        h ← h + conv(silu((1 + a)·norm(h) + b)),    (a, b) = W embedding(label, class)

    The dilations 1, 2, 4, 8, 1, … let few blocks see the whole image. It is 0 at initialisation.

    Args:
        width: Channels of h, a multiple of 8.
        blocks: Number of residual blocks.
    """

    def __init__(
        self,
        width: Annotated[int, Ge(8)] = 32,
        blocks: Annotated[int, Ge(1)] = 4,
        in_channels: Annotated[int, Ge(1)] = 3,
        out_channels: Annotated[int, Ge(1)] = 3,
        classes: Annotated[int, Ge(0)] = 0,
    ):
        super().__init__(downsampling=1, classes=classes)  # images of any size
        self.time = TimeEmbedding(width, width, classes)
        self.modulation = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(blocks))
        dilations = [2 ** (i % 4) for i in range(blocks)]
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in dilations)
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.out = nn.Conv2d(width, out_channels, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), label (B,) = 1000·t − 1, classes (B,) from 0 to K, where K means none -> (B, C, H, W)."""
        embedding, h = self.time(label, self.class_rows(classes, label)), self.stem(x)
        for modulation, norm, conv in zip(self.modulation, self.norms, self.convs, strict=True):
            a, b = modulation(embedding)[:, :, None, None].chunk(2, dim=1)
            h = h + conv(F.silu((1 + a) * norm(h) + b))
        return self.out(h)
