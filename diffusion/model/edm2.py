"""The network of "Analyzing and Improving the Training Dynamics of Diffusion Models" (EDM2; Karras et al. 2024,
arXiv:2312.02696), configuration G: every layer keeps the expected magnitude of its input.

The magnitude of a tensor is its root mean square; equations are the paper's, mostly of its appendix B. Weights have
magnitude 1 per output channel, at the start of each training step in memory (forced weight normalisation, eq. 66) and
in each product (eq. 47), so that the size of an update depends on the learning rate alone. There are no biases and no
group norms. It is made for `prediction=edm`, `objective=uncertainty`, Adam without weight decay at rates near 0.01 and
`lr_scheduler=inverse_sqrt` (table 6).
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.model.dropout import Dropout
from diffusion.model.network import Network

BALANCE = 0.3  # of a residual or attention branch against the main path, t in `mp_sum` (section 2.4)
LIMIT = 256.0  # of activations at the end of a block, for float16


def magnitude(x: Tensor, dims: Sequence[int]) -> Tensor:
    """The root mean square of x over `dims`, which stay with length 1; float32 or finer."""
    n = math.prod([x.shape[dim] for dim in dims])
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return norm / math.sqrt(n)


def unit(x: Tensor, dims: Sequence[int] = (1,)) -> Tensor:
    """x / magnitude(x) over `dims`; over the channels, dimension 1, it is pixel norm (eq. 30)."""
    return x / magnitude(x, dims).clamp(min=1e-4).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """silu(x)/0.596, as √E[silu(z)²] = 0.596 for z ~ N(0, 1) (eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """((1 − t)·a + t·b)/√((1 − t)² + t²) (eq. 88)."""
    return torch.lerp(a, b, t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """a and b, concatenated along the channels, with shares (1 − t)² and t² of the sum of squares (eq. 103).

    √((N_a + N_b)/((1 − t)² + t²))·[(1 − t)/√N_a·a, t/√N_b·b] for N_a and N_b channels.
    """
    n_a, n_b = a.shape[1], b.shape[1]
    c = math.sqrt((n_a + n_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (c * (1 - t) / math.sqrt(n_a)), b * (c * t / math.sqrt(n_b))], dim=1)


class MPFourier(nn.Module):
    """label (B,) -> √2·cos(2π(f·label + φ)) (B, width), f ~ N(0, bandwidth²) and φ ~ U(0, 1) fixed (eq. 75).

    Always float32: rounded to bfloat16, they would be other features than those that the network was trained on.
    """

    def __init__(self, width: int, bandwidth: float):
        super().__init__()
        self.frequencies: Tensor
        self.phases: Tensor
        self.register_buffer("frequencies", 2 * torch.pi * bandwidth * torch.randn(width))
        self.register_buffer("phases", 2 * torch.pi * torch.rand(width))

    def forward(self, label: Tensor) -> Tensor:
        return 2**0.5 * torch.cos(torch.outer(label.float(), self.frequencies) + self.phases)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MPFourier":
        for name, table in self._buffers.items():
            assert table is not None
            self._buffers[name] = table.to(fn(torch.empty((), device=table.device)).device)
        return self


class MPConv(nn.Module):
    """x (B, c_in, …) -> (B, c_out, …): a k×k convolution, or a linear map without `kernel`, by gain·w/‖w‖ (eq. 47).

    The norm is that of an output channel's weights, so that uncorrelated inputs of magnitude 1 give outputs of `gain`.
    """

    def __init__(self, c_in: int, c_out: int, *kernel: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, *kernel))
        self.dims = list(range(1, self.weight.ndim))

    @torch.no_grad()
    def force(self) -> None:
        """w ← w/magnitude(w) in memory (eq. 66); weights that are normalised already keep their bits.

        By `data`, as it is no change to a graph of an earlier forward pass: that pass found them normalised.
        """
        size = magnitude(self.weight, self.dims).to(self.weight.dtype)
        self.weight.data.copy_(torch.where((size - 1).abs() < 1e-5, self.weight, unit(self.weight, self.dims)))

    def forward(self, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        w = unit(self.weight, self.dims) * (gain / math.sqrt(self.weight[0].numel()))
        return F.linear(x, w) if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[2] // 2)


class Attention(nn.Module):
    """x (B, C, H, W) -> W_o softmax(q·k/√head_dim) v over the pixels; q, k and v of magnitude 1 (cosine attention)."""

    def __init__(self, channels: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.qkv = MPConv(channels, 3 * channels, 1, 1)
        self.out = MPConv(channels, channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).flatten(2).unflatten(1, (3, -1, self.head_dim))  # (B, 3, heads, head_dim, HW)
        q, k, v = unit(qkv, [3]).transpose(3, 4).unbind(1)  # each (B, heads, HW, head_dim)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]))


class Block(nn.Module):
    """x (B, C_in, H, W), emb (B, features) -> (B, C_out, H, W), or half or twice H and W (figure 21).

    With c = 1 + gain·W_e emb:  h = conv₂(dropout(mp_silu(c·conv₁(mp_silu(x)))));  mp_sum(x, h), then the same with
    attention. An encoder's block first maps x to C_out channels and pixel-normalises it; a decoder's maps x only beside
    the branch.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        features: int,
        dropout: float,
        head_dim: int | None = None,
        encoder: bool = False,
        resample: Literal["down", "up"] | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.resample = resample
        self.shortcut = MPConv(c_in, c_out, 1, 1) if c_in != c_out else nn.Identity()
        self.conv1 = MPConv(c_out if encoder else c_in, c_out, 3, 3)
        self.emb = MPConv(features, c_out)
        self.gain = nn.Parameter(torch.zeros(()))
        self.dropout = Dropout(dropout)
        self.conv2 = MPConv(c_out, c_out, 3, 3)
        self.attention = Attention(c_out, head_dim) if head_dim else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        if self.encoder:
            x = unit(self.shortcut(x))
        c = 1 + self.emb(emb, self.gain)
        h = mp_silu(self.conv1(mp_silu(x)) * c[:, :, None, None])
        h = self.conv2(self.dropout(h))
        x = mp_sum(x if self.encoder else self.shortcut(x), h, BALANCE)
        if self.attention is not None:
            x = mp_sum(x, self.attention(x), BALANCE)
        return x.clamp(-LIMIT, LIMIT)


def joined(block: nn.Module, h: Tensor, skip: Tensor, emb: Tensor) -> Tensor:
    """A block of the decoder: of h and an output of the encoder, concatenated."""
    return block(mp_cat(h, skip), emb)


class EDM2UNet(Network):
    """x (B, in_channels, H, W), label (B,), classes (B,) -> (B, out_channels, H, W), exactly 0 at initialisation.

    H and W are multiples of `downsampling`; level i works on images H/2^i × W/2^i. x is of magnitude 1 and label is
    log(σ)/4, as `prediction=edm` gives them. The defaults are EDM2-S (table 6).

    Args:
        in_channels: of the image.
        out_channels: of the prediction; twice `in_channels` when the variance is learned.
        channels: the width of each level.
        blocks: residual blocks per level in the encoder; the decoder has one more.
        attention: for each level, whether attention follows its blocks. The middle always has it.
        dropout: within residual blocks.
        head_dim: channels per attention head.
        classes: K, how many classes condition the output; 0 for none. Class K is "no class".
        bandwidth: of the label's Fourier features; 1 for `prediction=edm`, 0.002 for others, whose label is 1000·t − 1.
        checkpointing: keep only the inputs of blocks for the backward pass: less memory, up to half more time.

    Raises:
        UserError: where these do not fit one another.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: Sequence[int] = (192, 384, 576, 768),
        blocks: Annotated[int, Ge(1)] = 3,
        attention: Sequence[bool] = (False, False, True, True),
        dropout: float = 0.0,
        head_dim: Annotated[int, Ge(1)] = 64,
        classes: Annotated[int, Ge(0)] = 0,
        bandwidth: Annotated[float, Gt(0)] = 1.0,
        checkpointing: bool = False,
    ):
        super().__init__(2 ** max(0, len(channels) - 1), classes, checkpointing)
        if not channels:
            raise UserError("model.channels is empty: give the width of at least one level, such as [64,128]")
        if len(attention) != len(channels):
            raise UserError(
                f"model.attention has {len(attention)} entries and model.channels {len(channels)}: "
                "give one true or false per level"
            )
        attending = [c for c, attend in zip(channels, attention, strict=True) if attend] + [channels[-1]]
        if unfit := [c for c in attending if c % head_dim]:
            raise UserError(
                f"model.channels has {unfit[0]}, with attention, not a multiple of model.head_dim={head_dim}: "
                "change one of them"
            )
        features = max(channels)

        def block(c_in: int, c_out: int, attend: bool, encoder: bool = False) -> Block:
            return Block(c_in, c_out, features, dropout, head_dim if attend else None, encoder)

        self.fourier = MPFourier(channels[0], bandwidth)
        self.noise = MPConv(channels[0], features)
        if classes:
            self.label = MPConv(classes + 1, features)
        self.stem = MPConv(in_channels + 1, channels[0], 3, 3)
        width, skips = channels[0], [channels[0]]

        self.encoder = nn.ModuleDict()
        for i, c in enumerate(channels):
            if i > 0:
                self.encoder[f"stage{i}_down"] = Block(width, width, features, dropout, None, True, "down")
                skips.append(width)
            for j in range(blocks):
                self.encoder[f"stage{i}_block{j}"] = block(width, c, attention[i], encoder=True)
                width = c
                skips.append(c)

        self.middle = nn.ModuleList([block(width, width, True), block(width, width, False)])

        self.decoder = nn.ModuleDict()
        for i, c in enumerate(reversed(channels)):
            if i > 0:
                self.decoder[f"stage{i}_up"] = Block(width, width, features, dropout, None, False, "up")
            for j in range(blocks + 1):
                self.decoder[f"stage{i}_block{j}"] = block(width + skips.pop(), c, attention[-1 - i])
                width = c

        self.out = MPConv(width, out_channels, 3, 3)
        self.gain = nn.Parameter(torch.zeros(()))

    def embedding(self, label: Tensor, rows: Tensor | None) -> Tensor:
        """(B, features), of the label and of the class, which is one-hot of magnitude 1 over K + 1 (figure 21)."""
        dtype = self.noise.weight.dtype
        emb = self.noise(self.fourier(label).to(dtype))
        if rows is not None:
            one_hot = F.one_hot(rows, self.classes + 1).to(dtype)
            emb = mp_sum(emb, self.label(one_hot * math.sqrt(self.classes + 1)), 0.5)
        return mp_silu(emb)

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        self.check_size(*x.shape[2:])
        if self.training:
            for module in self.modules():
                if isinstance(module, MPConv):
                    module.force()
        emb = self.embedding(label, self.rows(classes, label))
        h = self.stem(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))  # the channel of ones is the bias of the stem
        skips = [h]
        for block in self.encoder.values():
            h = self.run(block, h, emb)
            skips.append(h)
        for block in self.middle:
            h = self.run(block, h, emb)
        for name, block in self.decoder.items():
            h = self.run(block, h, emb) if name.endswith("_up") else self.run(joined, block, h, skips.pop(), emb)
        return self.out(h, self.gain)
