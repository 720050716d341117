"""The U-Nets of DDPM (Ho, Jain, Abbeel 2020, appendix B), of ADM (Dhariwal, Nichol 2021, section 3) and of the memoir.

    stem ── blocks ── ↓ ── blocks ── ↓ ── blocks ── middle ── blocks ── ↑ ── blocks ── ↑ ── blocks ── output
          each output of the encoder is concatenated to the input of one decoder block, last in, first out

The first two are equivalent to diffusers' `UNet2DModel`, with the settings of `google/ddpm-cifar10-32` and with
resampling residual blocks. They work on series and volumes, too: `axes` is 1, 2 or 3, and *size stands for (L,), (H, W)
or (D, H, W). ADM differs from DDPM in three ways: the embedding scales and shifts each second group norm
(adaptive group norm), residual blocks downsample and upsample the images (as in BigGAN), and attention has several
heads, on several levels.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, MinLen
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.model.network import (
    Dropout,
    Network,
    Resize,
    TimeEmbedding,
    UNetwork,
    by_channel,
    coordinates,
    pooled,
    resized,
)

EPS = 1e-6  # of all group norms, as in DDPM
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def convolution(axes: int, c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0) -> Convolution:
    """A convolution over this number of axes."""
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](c_in, c_out, kernel, stride, padding)


class GroupNorm(nn.GroupNorm):
    """Group norm. On a CPU, training in bfloat16 normalises in float32, which is faster (torch 2.13)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled():
            y = F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
            return y.to(x.dtype)
        return super().forward(x)


class Attention(nn.Module):
    """x (B, C, *size) -> x + W_o softmax(q kᵀ/√head_dim) v, over the N positions; W_o is zero-initialised."""

    def __init__(self, channels: int, groups: int, head_dim: int, eps: float = EPS):
        super().__init__()
        self.head_dim = head_dim
        self.norm = GroupNorm(groups, channels, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, C): a view where x is channels_last
        qkv = self.qkv(pixels).unflatten(2, (3, -1, self.head_dim))  # (B, N, 3, heads, head_dim)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # each (B, heads, N, head_dim)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class Block(nn.Module):
    """x (B, C_in, *size), emb (B, features) -> (B, C_out, *size): a residual block with time embedding, then attention.

    shortcut(x) + conv₂(dropout(silu(norm₂(h)))) with h = conv₁(silu(norm₁(x))) + W_t emb; conv₂ is zero-initialised.
    """

    modulations = 1  # values of the embedding per channel

    def __init__(
        self, c_in: int, c_out: int, head_dim: int | None, features: int, groups: int, dropout: float, eps: float = EPS,
        axes: int = 2,
    ):  # fmt: skip
        super().__init__()
        self.norm1 = GroupNorm(groups, c_in, eps)
        self.conv1 = convolution(axes, c_in, c_out, 3, padding=1)
        self.time = nn.Linear(features, self.modulations * c_out)
        self.norm2 = GroupNorm(groups, c_out, eps)
        self.dropout = Dropout(dropout)
        self.conv2 = convolution(axes, c_out, c_out, 3, padding=1)
        self.shortcut = convolution(axes, c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = Attention(c_out, groups, head_dim, eps) if head_dim else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + by_channel(self.time(emb), x)
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.attention(self.shortcut(x) + h)


class Downsample(nn.Module):
    """(B, C, *size) -> (B, C, *size/2) by a convolution of width 3 and stride 2.

    With `padding` 1 all sides are padded, with 0 only the ends of all axes, as in DDPM (TensorFlow's "SAME").
    """

    def __init__(self, channels: int, padding: int = 0, axes: int = 2):
        super().__init__()
        self.conv = convolution(axes, channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1) * (x.ndim - 2)))


def enlarged(x: Tensor, conv: Convolution) -> Tensor:
    """(B, C, *size) -> (B, C_out, *2 size): each position repeated along all axes, then the convolution w of width 3.

    Both are linear: together they are a transposed convolution of stride 2 with the kernel w ∗ 1, where 1 has width 2.
    """
    axes = x.ndim - 2
    w = conv.weight.transpose(0, 1).flip([*range(2, x.ndim)])
    kernel = 2**axes * pooled(w, 2, stride=1, padding=1)  # the sum of each window; ONNX supports no other divisor
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
    return transposed(x, kernel, conv.bias, stride=2, padding=1)


class Upsample(nn.Module):
    """(B, C, *size) -> (B, C, *2 size): each position repeated along all axes, then a convolution of width 3."""

    def __init__(self, channels: int, axes: int = 2):
        super().__init__()
        self.conv = convolution(axes, channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return enlarged(x, self.conv)


class UNet(UNetwork):
    """x (B, in_channels, *size), label (B,), classes (B,) -> (B, out_channels, *size), exactly 0 at initialisation.

    label is DDPM's time index 1000·t − 1. Level i works on examples with the sides size/(p·2^i), where p is `patch`. If
    the variance is learned, out_channels is twice in_channels. `patch` and `coordinates` are for images, of two axes.
    """

    def __init__(
        self,
        in_channels: Annotated[int, Ge(1)] = 3,
        out_channels: Annotated[int, Ge(1)] = 3,
        channels: Sequence[Annotated[int, Ge(1)]] = (128, 256, 256, 256),
        blocks: Annotated[int, Ge(1)] = 2,
        attention: Sequence[bool] = (False, True, False, False),
        dropout: Annotated[float, Ge(0), Le(1)] = 0.0,
        groups: Annotated[int, Ge(1)] = 32,
        head_dim: Annotated[int, Ge(1)] | None = None,
        classes: Annotated[int, Ge(0)] = 0,
        patch: Annotated[int, Ge(1)] = 1,
        checkpointing: bool = False,
        augment: Annotated[int, Ge(0)] = 0,
        coordinates: bool = False,
        norm_eps: Annotated[float, Gt(0)] = EPS,
        down_padding: Literal[0, 1] = 0,
        frequency_shift: Literal[0, 1] = 1,
        cosines_first: bool = False,
        axes: Literal[1, 2, 3] = 2,
    ):
        super().__init__(channels, attention, head_dim, patch, classes, checkpointing)
        if invalid := [c for c in channels if c % groups]:
            raise UserError(f"model: {invalid[0]} channels are not a multiple of groups = {groups}")
        if axes != 2 and (patch > 1 or coordinates):
            raise UserError(f"model: a patch above 1 and coordinates need 2 axes, not {axes}; leave them out")
        self.patch, self.coordinates, self.down_padding, self.axes = patch, coordinates, down_padding, axes
        features, self.head_dim = 4 * channels[0], head_dim
        self.settings: dict[str, Any] = {
            "features": features, "groups": groups, "dropout": dropout, "eps": norm_eps, "axes": axes,
        }  # fmt: skip
        self.time = TimeEmbedding(channels[0], features, classes, frequency_shift, cosines_first, augment)
        self.stem = convolution(axes, (in_channels + 2 * coordinates) * patch**2, channels[0], 3, padding=1)
        self.build(channels, attention, blocks)
        self.norm = GroupNorm(groups, channels[0], norm_eps)
        self.out = convolution(axes, channels[0], out_channels * patch**2, 3, padding=1)
        self.initialise()

    def unit(self, c_in: int, c_out: int, attend: bool = False, resize: Resize = None, encoder: bool = False) -> Any:
        if resize is not None:
            down = resize == "down"
            return Downsample(c_in, self.down_padding, self.axes) if down else Upsample(c_in, self.axes)
        return Block(c_in, c_out, (self.head_dim or c_out) if attend else None, **self.settings)

    def initialise(self) -> None:
        """As in DDPM: Glorot-uniform weights, zero biases; each residual branch and the network end in a zero layer."""
        for module in self.modules():
            if isinstance(module, Convolution | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, Attention):
                nn.init.xavier_uniform_(module.qkv.weight, gain=2**0.5)  # three maps C -> C, not one C -> 3C
                nn.init.zeros_(module.out.weight)
        nn.init.zeros_(self.out.weight)

    def forward(
        self,
        x: Tensor,
        label: Tensor,
        classes: Tensor | None = None,
        augment: Tensor | None = None,
        window: Tensor | None = None,
    ) -> Tensor:
        self.check_size(*x.shape[2:])
        if self.coordinates:
            x = torch.cat([x, coordinates(x, window)], dim=1)
        emb = self.time(label, self.class_rows(classes, label), augment)
        h = self.through(self.stem(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x), emb)
        y = self.out(F.silu(self.norm(h)))
        return F.pixel_shuffle(y, self.patch) if self.patch > 1 else y


class AdaptiveBlock(Block):
    """x (B, C_in, *size), emb (B, features) -> (B, C_out, *size'): a residual block, adaptive norm, then attention.

    shortcut(resize(x)) + conv₂(dropout(silu((1 + s)·norm₂(h) + b))) with h = conv₁(resize(silu(norm₁(x)))) and
    (s, b) = W_t emb; conv₂ is zero-initialised.
    """

    modulations = 2  # s and b

    def __init__(self, *args: Any, resize: Resize = None, **more: Any):
        super().__init__(*args, **more)
        self.resize = resize

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        h = enlarged(h, self.conv1) if self.resize == "up" else self.conv1(resized(h, self.resize))
        s, b = by_channel(self.time(emb), x).chunk(2, dim=1)
        h = self.conv2(self.dropout(F.silu((1 + s) * self.norm2(h) + b)))
        return self.attention(self.shortcut(resized(x, self.resize)) + h)


class ADMUNet(UNet):
    """x (B, in_channels, *size), label (B,), classes (B,) -> (B, out_channels, *size), exactly 0 at initialisation.

    The arguments are those of `UNet`; the last four are those of ADM's code. ADM's network for ImageNet at 64×64
    (appendix I) is conf/model/unet_adm.yaml.
    """

    def __init__(self, **options: Any):
        super().__init__(norm_eps=1e-5, frequency_shift=0, cosines_first=True, **options)

    def unit(self, c_in: int, c_out: int, attend: bool = False, resize: Resize = None, encoder: bool = False) -> Any:
        head_dim = (self.head_dim or c_out) if attend else None
        return AdaptiveBlock(c_in, c_out, head_dim, resize=resize, **self.settings)

    def initialise(self) -> None:
        """Torch's defaults, but each residual branch and the network end in a zero layer (section 3)."""
        ends: list[nn.Module] = [self.out]
        ends += [module.conv2 for module in self.modules() if isinstance(module, AdaptiveBlock)]
        ends += [module.out for module in self.modules() if isinstance(module, Attention)]
        for parameter in nn.ModuleList(ends).parameters():
            nn.init.zeros_(parameter)


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
    """The memoir's network, of convolutions, ReLU and max pooling (Ronneberger et al. 2015), with time input.

    Encoder: a `Stage` and a 2×2 max pooling per entry of `channels`. Bottleneck: a `Stage` without pooling.
    Decoder, per entry: a transposed convolution of stride 2, concatenation with the encoder's features of that size,
    and a `Stage`. Output: a 1×1 convolution. Every stage gets the time embedding of the label 1000·t − 1.
    """

    ends = ("encoder.0.conv1", "out")

    def __init__(
        self,
        in_channels: Annotated[int, Ge(1)] = 3,
        out_channels: Annotated[int, Ge(1)] = 3,
        channels: Annotated[Sequence[Annotated[int, Ge(1)]], MinLen(1)] = (64, 128, 256),
        bottleneck: Annotated[int, Ge(1)] = 512,
        features: Annotated[int, Ge(1)] = 256,
        classes: Annotated[int, Ge(0)] = 0,
        checkpointing: bool = False,
        augment: Annotated[int, Ge(0)] = 0,
    ):
        super().__init__(2 ** len(channels), classes, checkpointing)
        self.time = TimeEmbedding(channels[0], features, classes, augment=augment)
        widths = [in_channels, *channels]
        self.encoder = nn.ModuleList(Stage(c_in, c, features) for c_in, c in pairwise(widths))
        self.bottleneck = Stage(channels[-1], bottleneck, features)
        upwards = [bottleneck, *reversed(channels)]
        self.up = nn.ModuleList(nn.ConvTranspose2d(c_in, c, 2, stride=2) for c_in, c in pairwise(upwards))
        self.decoder = nn.ModuleList(Stage(2 * c, c, features) for c in reversed(channels))
        self.out = nn.Conv2d(channels[0], out_channels, 1)
        # Without normalisation, the initialisation must preserve the variance through each ReLU (He et al. 2015).
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def decoded(self, stage: nn.Module, up: nn.Module, x: Tensor, skip: Tensor, emb: Tensor) -> Tensor:
        """A decoder stage, applied to the concatenation of the upsampled x and the encoder's features of that size."""
        return stage(torch.cat([up(x), skip], dim=1), emb)

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        self.check_size(*x.shape[2:])
        emb = self.time(label, self.class_rows(classes, label), augment)
        skips = []
        for stage in self.encoder:
            skips.append(self.run(stage, x, emb))
            x = F.max_pool2d(skips[-1], 2)
        x = self.run(self.bottleneck, x, emb)
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = self.run(self.decoded, stage, up, x, skips.pop(), emb)
        return self.out(x)
