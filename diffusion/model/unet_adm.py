"""The U-Net of "Diffusion Models Beat GANs on Image Synthesis" (ADM; Dhariwal, Nichol 2021, section 3), equal to
diffusers' `UNet2DModel` of residual blocks that resample (see `diffusion.model.diffusers`).

Against DDPM's U-Net: the time scales and shifts each second group norm (adaptive group norm, section 3.1), residual
blocks halve and double the images (BigGAN's, section 3), attention has heads of 64 channels on several levels, and a
class's vector is added to the time's.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from diffusion.model.dropout import Dropout
from diffusion.model.embedding import TimeEmbedding
from diffusion.model.unet import Attention, UNet, Units, enlarged

EPS = 1e-5  # of every group norm, as in ADM's code


class AdaptiveBlock(nn.Module):
    """x (B, C_in, H, W), emb (B, features) -> (B, C_out, H, W), or half or twice H and W: residual, then attention.

    h = conv₁(resample(silu(norm₁(x)))), (s, b) = W_t emb;  h = conv₂(dropout(silu((1 + s)·norm₂(h) + b))), conv₂
    zero-initialised;  shortcut(resample(x)) + h. `resample` averages 2×2 pixels, repeats each 2×2, or does nothing.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        features: int,
        groups: int,
        dropout: float,
        head_dim: int | None,
        resample: Literal["down", "up"] | None = None,
    ):
        super().__init__()
        self.resample = resample
        self.norm1 = nn.GroupNorm(groups, c_in, EPS)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(features, 2 * c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, EPS)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = Attention(c_out, groups, head_dim, EPS) if head_dim else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.resample == "down":
            x, h = F.avg_pool2d(x, 2), self.conv1(F.avg_pool2d(h, 2))
        elif self.resample == "up":
            x, h = F.interpolate(x, scale_factor=2, mode="nearest"), enlarged(h, self.conv1)
        else:
            h = self.conv1(h)
        s, b = self.time(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(self.dropout(F.silu((1 + s) * self.norm2(h) + b)))
        return self.attention(self.shortcut(x) + h)


class ADMUNet(UNet):
    """x (B, in_channels, H, W), label (B,), classes (B,) -> (B, out_channels, H, W), exactly 0 at initialisation.

    H and W are multiples of `downsampling`; label is DDPM's time index 1000·t − 1. Level i works on images
    H/2^i × W/2^i. The defaults are ADM's for ImageNet at 64×64 (appendix I).

    Args:
        in_channels: of the image.
        out_channels: of the prediction; twice `in_channels` when the variance is learned.
        channels: the width of each level; multiples of `groups`.
        blocks: residual blocks per level in the encoder; the decoder has one more.
        attention: for each level, whether attention follows its blocks. The middle always has it.
        dropout: within residual blocks.
        groups: of each group norm.
        head_dim: channels per attention head; None is a single head.
        classes: K, how many classes condition the output; 0 for none. Class K is "no class".
        patch: p; the network works on images H/p × W/p whose channels are the pixels of each p×p square.
        checkpointing: keep only the inputs of blocks for the backward pass: less memory, up to half more time.

    Raises:
        UserError: where these do not fit one another.
    """

    eps = EPS

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: Sequence[int] = (192, 384, 576, 768),
        blocks: int = 3,
        attention: Sequence[bool] = (False, True, True, True),
        dropout: float = 0.1,
        groups: int = 32,
        head_dim: int | None = 64,
        classes: Annotated[int, Ge(0)] = 0,
        patch: Annotated[int, Ge(1)] = 1,
        checkpointing: bool = False,
    ):
        super().__init__(
            in_channels, out_channels, channels, blocks, attention, dropout, groups, head_dim, classes, patch,
            checkpointing,
        )  # fmt: skip

    def embedding(self, width: int, features: int) -> TimeEmbedding:
        """Cosines before sines, and frequencies 10000^(−k/(width/2)): ADM's, unlike DDPM's."""
        return TimeEmbedding(width, features, self.classes, shift=0, cosines_first=True)

    def units(self, features: int, groups: int, dropout: float, head_dim: int | None) -> Units:
        """See `UNet.units`."""

        def block(
            c_in: int, c_out: int, attend: bool = False, resample: Literal["down", "up"] | None = None
        ) -> AdaptiveBlock:
            heads = (head_dim or c_out) if attend else None
            return AdaptiveBlock(c_in, c_out, features, groups, dropout, heads, resample)

        return block, lambda c: block(c, c, resample="down"), lambda c: block(c, c, resample="up")

    def initialise(self) -> None:
        """Torch's own, but zero at the end of each residual branch and of all (section 3)."""
        ends: list[nn.Module] = [self.out]
        ends += [module.conv2 for module in self.modules() if isinstance(module, AdaptiveBlock)]
        ends += [module.out for module in self.modules() if isinstance(module, Attention)]
        for parameter in nn.ModuleList(ends).parameters():
            nn.init.zeros_(parameter)
