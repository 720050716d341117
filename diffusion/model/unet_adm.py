"""The U-Net of "Diffusion Models Beat GANs on Image Synthesis" (ADM; Dhariwal, Nichol 2021, section 3).

It is equivalent to diffusers' `UNet2DModel` with resampling residual blocks (see `diffusion.model.diffusers`). It
differs from DDPM's U-Net in three ways: the embedding scales and shifts each second group norm (adaptive group norm),
residual blocks downsample and upsample the images (as in BigGAN), and attention has several heads, on several levels.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.model.unet import Attention, Block, UNet, Units, enlarged

EPS = 1e-5  # of all group norms, as in ADM's code
Resample = Literal["down", "up"] | None


class AdaptiveBlock(Block):
    """x (B, C_in, H, W), emb (B, features) -> (B, C_out, H', W'): a residual block with adaptive norm, then attention.

    shortcut(resample(x)) + conv₂(dropout(silu((1 + s)·norm₂(h) + b))) with h = conv₁(resample(silu(norm₁(x)))) and
    (s, b) = W_t emb; conv₂ is zero-initialised. `resample` "down" averages each 2×2 pixels, "up" repeats each pixel
    2×2, and None is the identity.
    """

    modulations = 2  # s and b

    def __init__(
        self,
        c_in: int,
        c_out: int,
        features: int,
        groups: int,
        dropout: float,
        head_dim: int | None,
        resample: Resample = None,
        eps: float = EPS,
    ):
        super().__init__(c_in, c_out, features, groups, dropout, head_dim, eps)
        self.resample = resample

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

    The arguments are those of `UNet`, without `down_padding`, because no convolution has a stride. ADM's network for
    ImageNet at 64×64 (appendix I) is conf/model/unet_adm.yaml.
    """

    norm_eps = EPS
    frequency_shift = 0
    cosines_first = True

    def units(self, features: int, groups: int, dropout: float, head_dim: int | None) -> Units:
        """See `UNet.units`. Raises UserError for a `down_padding`."""
        if self.down_padding:
            raise UserError("model: ADMUNet averages pixels without padding; set down_padding to 0")

        def block(c_in: int, c_out: int, attend: bool = False, resample: Resample = None) -> AdaptiveBlock:
            heads = (head_dim or c_out) if attend else None
            return AdaptiveBlock(c_in, c_out, features, groups, dropout, heads, resample, self.norm_eps)

        return block, lambda c: block(c, c, resample="down"), lambda c: block(c, c, resample="up")

    def initialise(self) -> None:
        """Torch's defaults, but each residual branch and the network end in a zero layer (section 3)."""
        ends: list[nn.Module] = [self.out]
        ends += [module.conv2 for module in self.modules() if isinstance(module, AdaptiveBlock)]
        ends += [module.out for module in self.modules() if isinstance(module, Attention)]
        for parameter in nn.ModuleList(ends).parameters():
            nn.init.zeros_(parameter)
