"""The U-Net of "Denoising Diffusion Probabilistic Models" (Ho, Jain, Abbeel 2020, appendix B).

It is equivalent to diffusers' `UNet2DModel` with the settings of `google/ddpm-cifar10-32` (see
`diffusion.model.diffusers`).

    stem ── blocks ── ↓ ── blocks ── ↓ ── blocks ── middle ── blocks ── ↑ ── blocks ── ↑ ── blocks ── output
          each output of the encoder is concatenated to the input of one decoder block, last in, first out
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.model.dropout import Dropout
from diffusion.model.embedding import TimeEmbedding
from diffusion.model.network import UNetwork, check_levels

EPS = 1e-6  # of all group norms, as in DDPM


class GroupNorm(nn.GroupNorm):
    """x (B, C, …) -> γ (x − mean)/√(variance + eps) + β, mean and variance per image and group of channels.

    On a CPU, training in bfloat16 normalises in float32, as autocast does on a GPU: the backward pass of torch's kernel
    for large bfloat16 images in channels_last format takes five times as long (torch 2.13).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled():
            y = F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
            return y.to(x.dtype)
        return super().forward(x)


class Attention(nn.Module):
    """x (B, C, H, W) -> x + W_o softmax(q kᵀ/√head_dim) v, over the H·W pixels; W_o is zero-initialised."""

    def __init__(self, channels: int, groups: int, head_dim: int, eps: float = EPS):
        super().__init__()
        self.head_dim = head_dim
        self.norm = GroupNorm(groups, channels, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C): a view where x is channels_last
        qkv = self.qkv(pixels).unflatten(2, (3, -1, self.head_dim))  # (B, HW, 3, heads, head_dim)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # each (B, heads, HW, head_dim)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class Block(nn.Module):
    """x (B, C_in, H, W), emb (B, features) -> (B, C_out, H, W): a residual block with time embedding, then attention.

    shortcut(x) + conv₂(dropout(silu(norm₂(h)))) with h = conv₁(silu(norm₁(x))) + W_t emb; conv₂ is zero-initialised.
    """

    modulations = 1  # values of the embedding per channel

    def __init__(
        self, c_in: int, c_out: int, features: int, groups: int, dropout: float, head_dim: int | None, eps: float = EPS
    ):
        super().__init__()
        self.norm1 = GroupNorm(groups, c_in, eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(features, self.modulations * c_out)
        self.norm2 = GroupNorm(groups, c_out, eps)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = Attention(c_out, groups, head_dim, eps) if head_dim else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(emb)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.attention(self.shortcut(x) + h)


class Downsample(nn.Module):
    """(B, C, H, W) -> (B, C, H/2, W/2) by a 3×3 convolution of stride 2.

    Args:
        padding: 1: pad all sides; 0: pad only the right and the bottom. The latter is TensorFlow's "SAME" padding,
            which DDPM's published weights were trained with.
    """

    def __init__(self, channels: int, padding: int = 0):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


def enlarged(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """(B, C, H, W) -> (B, C_out, 2H, 2W): each pixel repeated 2×2, then the 3×3 convolution w of padding 1.

    Both operations are linear, so together they are a transposed convolution of stride 2 with the 4×4 kernel w ∗ 1₂ₓ₂.
    The result is the same, with 2.25 times fewer multiplications and without the enlarged image in memory.
    """
    w = conv.weight.transpose(0, 1).flip(2, 3)
    kernel = 4 * F.avg_pool2d(w, 2, stride=1, padding=1)  # the sum of each 2×2 window; ONNX supports no other divisor
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


class Upsample(nn.Module):
    """(B, C, H, W) -> (B, C, 2H, 2W): each pixel repeated 2×2, then a 3×3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return enlarged(x, self.conv)


def joined(unit: nn.Module, h: Tensor, skip: Tensor, emb: Tensor) -> Tensor:
    """A decoder block, applied to the concatenation of h and an output of the encoder."""
    return unit(torch.cat([h, skip], dim=1), emb)


# The constructors block(c_in, c_out, attend), down(channels) and up(channels).
Units = tuple[Callable[[int, int, bool], nn.Module], Callable[[int], nn.Module], Callable[[int], nn.Module]]


class UNet(UNetwork):
    """x (B, in_channels, H, W), label (B,), classes (B,) -> (B, out_channels, H, W), exactly 0 at initialisation.

    H and W must be multiples of `downsampling`; label is DDPM's time index 1000·t − 1. Level i works on images of
    H/(p·2^i) × W/(p·2^i) pixels, where p is `patch`.

    Args:
        in_channels: the channels of the image.
        out_channels: the channels of the prediction; twice `in_channels` if the variance is learned.
        channels: the width of each level, in channels; multiples of `groups` and, with attention, of `head_dim`.
        blocks: the residual blocks per level of the encoder; the decoder has one more per level.
        attention: for each level, whether attention follows its blocks; the middle always has attention.
        dropout: the dropout probability in the residual blocks.
        groups: the number of groups of each group norm.
        head_dim: the channels per attention head; None: a single head, as in DDPM.
        patch: p; each p×p square of pixels becomes one pixel with p² times the channels before the first level.
        augment: the number of augmentation labels; 0: none.
        coordinates: add the position of each pixel in the image as two more input channels.
        norm_eps: the constant that each group norm adds to the variance; None: as in the paper.
        down_padding: 0 or 1, see `Downsample`.
        frequency_shift: the shift of the label's frequencies, see `sinusoidal`; None: as in the paper.
        cosines_first: cosines before sines in the label's embedding; None: as in the paper.

    Raises UserError if the arguments are inconsistent.
    """

    norm_eps = EPS
    frequency_shift = 1
    cosines_first = False

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
        norm_eps: Annotated[float, Gt(0)] | None = None,
        down_padding: Literal[0, 1] = 0,
        frequency_shift: Literal[0, 1] | None = None,
        cosines_first: bool | None = None,
    ):
        super().__init__(patch * 2 ** max(0, len(channels) - 1), classes, checkpointing)
        check_levels(channels, attention, head_dim)
        if invalid := [c for c in channels if c % groups]:
            raise UserError(f"model: {invalid[0]} channels are not a multiple of groups={groups}")
        self.patch, self.coordinates, self.down_padding = patch, coordinates, down_padding
        self.norm_eps = self.norm_eps if norm_eps is None else norm_eps
        self.frequency_shift = self.frequency_shift if frequency_shift is None else frequency_shift
        self.cosines_first = self.cosines_first if cosines_first is None else cosines_first
        features = 4 * channels[0]
        block, down, up = self.units(features, groups, dropout, head_dim)

        self.time = TimeEmbedding(
            channels[0], features, classes, self.frequency_shift, self.cosines_first, augment=augment
        )
        self.stem = nn.Conv2d((in_channels + 2 * coordinates) * patch**2, channels[0], 3, padding=1)
        width, skips = channels[0], [channels[0]]
        self.encoder = nn.ModuleDict()
        for i, c in enumerate(channels):
            for j in range(blocks):
                self.encoder[f"stage{i}_block{j}"] = block(width, c, attention[i])
                width = c
                skips.append(c)
            if i < len(channels) - 1:
                self.encoder[f"stage{i}_down"] = down(c)
                skips.append(c)
        self.middle = nn.ModuleList([block(width, width, True), block(width, width, False)])
        self.decoder = nn.ModuleDict()
        for i, c in enumerate(reversed(channels)):
            for j in range(blocks + 1):
                self.decoder[f"stage{i}_block{j}"] = block(width + skips.pop(), c, attention[-1 - i])
                width = c
            if i < len(channels) - 1:
                self.decoder[f"stage{i}_up"] = up(c)

        self.norm = GroupNorm(groups, width, self.norm_eps)
        self.out = nn.Conv2d(width, out_channels * patch**2, 3, padding=1)
        self.initialise()

    def units(self, features: int, groups: int, dropout: float, head_dim: int | None) -> Units:
        """The constructors of the blocks and of the downsampling and upsampling layers."""

        def block(c_in: int, c_out: int, attend: bool) -> Block:
            heads = (head_dim or c_out) if attend else None
            return Block(c_in, c_out, features, groups, dropout, heads, self.norm_eps)

        return block, lambda channels: Downsample(channels, self.down_padding), Upsample

    def initialise(self) -> None:
        """As in DDPM: Glorot-uniform weights, zero biases; each residual branch and the network end in a zero layer."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
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
        x = self.located(x, window)
        emb = self.time(label, self.class_rows(classes, label), augment)
        h = self.stem(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        h = self.through(h, emb, joined)
        y = self.out(F.silu(self.norm(h)))
        return F.pixel_shuffle(y, self.patch) if self.patch > 1 else y
