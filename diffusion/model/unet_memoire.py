"""The memoir's network: a U-Net of convolutions, ReLU and max pooling (Ronneberger et al. 2015) with time input."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.model.network import Network, TimeEmbedding


class Stage(nn.Module):
    """x (B, C_in, H, W), emb (B, features) -> (B, C_out, H, W): relu(conv₂(relu(conv₁(x) + W_t emb)))."""

    def __init__(self, c_in: int, c_out: int, features: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(features, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = F.relu(self.conv1(x) + self.time(emb)[:, :, None, None])
        return F.relu(self.conv2(h))


class MemoirUNet(Network):
    """x (B, in_channels, H, W), label (B,), classes (B,) -> (B, out_channels, H, W).

    Encoder: a `Stage` and a 2×2 max pooling per entry of `channels`. Bottleneck: a `Stage` without pooling.
    Decoder, per entry: a transposed convolution of stride 2, concatenation with the encoder's features of that size,
    and a `Stage`. Output: a 1×1 convolution. Every stage gets the time embedding of the label 1000·t − 1.
    """

    ends = ("encoder.0.conv1", "out")

    def __init__(
        self,
        in_channels: Annotated[int, Ge(1)] = 3,
        out_channels: Annotated[int, Ge(1)] = 3,
        channels: Sequence[Annotated[int, Ge(1)]] = (64, 128, 256),
        bottleneck: Annotated[int, Ge(1)] = 512,
        features: Annotated[int, Ge(1)] = 256,
        classes: Annotated[int, Ge(0)] = 0,
        checkpointing: bool = False,
    ):
        super().__init__(2 ** len(channels), classes, checkpointing)
        if not channels:
            raise UserError("model: channels is empty: set the width of at least one stage, such as [64,128,256]")
        self.time = TimeEmbedding(channels[0], features, classes)
        widths = [in_channels, *channels]
        self.encoder = nn.ModuleList(Stage(c_in, c, features) for c_in, c in pairwise(widths))
        self.bottleneck = Stage(channels[-1], bottleneck, features)
        upwards = [bottleneck, *reversed(channels)]
        self.up = nn.ModuleList(nn.ConvTranspose2d(c_in, c, 2, stride=2) for c_in, c in pairwise(upwards))
        self.decoder = nn.ModuleList(Stage(2 * c, c, features) for c in reversed(channels))
        self.out = nn.Conv2d(channels[0], out_channels, 1)
        # Without normalisation, the signal keeps its scale through some fifteen layers only if the initialisation
        # preserves the variance through each ReLU (He et al. 2015).
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def decoded(self, stage: nn.Module, up: nn.Module, x: Tensor, skip: Tensor, emb: Tensor) -> Tensor:
        """A decoder stage, applied to the concatenation of the upsampled x and the encoder's features of that size."""
        return stage(torch.cat([up(x), skip], dim=1), emb)

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        self.check_size(*x.shape[2:])
        emb = self.time(label, self.class_rows(classes, label))
        skips = []
        for stage in self.encoder:
            skips.append(self.run(stage, x, emb))
            x = F.max_pool2d(skips[-1], 2)
        x = self.run(self.bottleneck, x, emb)
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = self.run(self.decoded, stage, up, x, skips.pop(), emb)
        return self.out(x)
