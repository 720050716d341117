"""The U-Net of "Analyzing and Improving the Training Dynamics of Diffusion Models" (EDM2; Karras et al. 2024).

arXiv:2312.02696, configuration G. Every layer preserves the expected magnitude of its input, where the magnitude of a
tensor is its root mean square. Equation numbers are the paper's. The weights of each output channel are normalised to
magnitude 1: in memory at the start of each training step (forced weight normalisation, eq. 66), and in each forward
pass (eq. 47). So the relative size of an update depends only on the learning rate. There are no biases and no group
norms. experiment=edm2 trains it as in table 6.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from diffusion.model.network import Dropout, Resize, UNetwork, resized

BALANCE = 0.3  # t in `mp_sum`: the share of a residual or attention branch (section 2.4)
LIMIT = 256.0  # the largest absolute activation at the end of a block, for float16


def magnitude(x: Tensor, dims: Sequence[int]) -> Tensor:
    """The root mean square of x over `dims`, kept as dimensions of size 1; in float32, or in float64 if x is."""
    n = math.prod([x.shape[dim] for dim in dims])
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return norm / math.sqrt(n)


def unit(x: Tensor, dims: Sequence[int] = (1,)) -> Tensor:
    """x / magnitude(x) over `dims`; over the channels, dimension 1, this is pixel norm (eq. 30).

    A magnitude below 1e-4 counts as 1e-4. (The authors' code adds 1e-4 to every magnitude.)
    """
    return x / magnitude(x, dims).clamp(min=1e-4).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """silu(x)/0.596; √E[silu(z)²] = 0.596 for z ~ N(0, 1) (eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """((1 − t)·a + t·b)/√((1 − t)² + t²) (eq. 88)."""
    return torch.lerp(a, b, t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """√((N_a + N_b)/((1 − t)² + t²))·[(1 − t)/√N_a·a, t/√N_b·b] along the channels, N_a of a and N_b of b (eq. 103)."""
    n_a, n_b = a.shape[1], b.shape[1]
    c = math.sqrt((n_a + n_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (c * (1 - t) / math.sqrt(n_a)), b * (c * t / math.sqrt(n_b))], dim=1)


class MPFourier(nn.Module):
    """label (B,) -> √2·cos(2π(f·label + φ)) (B, width), with fixed f ~ N(0, bandwidth²) and φ ~ U(0, 1) (eq. 75)."""

    def __init__(self, width: int, bandwidth: float):
        super().__init__()
        self.frequencies = nn.Buffer(2 * torch.pi * bandwidth * torch.randn(width))
        self.phases = nn.Buffer(2 * torch.pi * torch.rand(width))

    def forward(self, label: Tensor) -> Tensor:
        return 2**0.5 * torch.cos(torch.outer(label.float(), self.frequencies) + self.phases)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MPFourier":
        for name, table in self._buffers.items():  # moved, but always in float32
            assert table is not None
            self._buffers[name] = table.to(fn(torch.empty((), device=table.device)).device)
        return self


class MPConv(nn.Module):
    """x (B, c_in, …) -> (B, c_out, …): a convolution with gain·w/‖w‖, or without `kernel` a linear map (eq. 47).

    ‖w‖ is taken per output channel. So uncorrelated inputs of magnitude 1 give outputs of magnitude `gain`.
    """

    def __init__(self, c_in: int, c_out: int, *kernel: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, *kernel))
        self.dims = list(range(1, self.weight.ndim))

    @torch.no_grad()
    def force(self) -> None:
        """w ← w/magnitude(w) in memory (eq. 66), in `data`: the backward pass of an earlier step stays valid."""
        size = magnitude(self.weight, self.dims).to(self.weight.dtype)
        self.weight.data.copy_(torch.where((size - 1).abs() < 1e-5, self.weight, unit(self.weight, self.dims)))

    def forward(self, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        w = unit(self.weight, self.dims) * (gain / math.sqrt(self.weight[0].numel()))
        return F.linear(x, w) if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[2] // 2)


class Attention(nn.Module):
    """x (B, C, H, W) -> W_o softmax(q kᵀ/√head_dim) v, over the H·W pixels; q, k and v have magnitude 1."""

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
    """x (B, C_in, H, W), emb (B, features) -> (B, C_out, H', W'): a residual block, then attention (figure 21).

    h = conv₂(dropout(mp_silu(c·conv₁(mp_silu(x))))) with c = 1 + gain·W_e emb; then x ← mp_sum(x, h), and likewise
    with attention. x is mapped to C_out channels: in the encoder first, with pixel norm; in the decoder for the sum.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        features: int,
        dropout: float,
        head_dim: int | None = None,
        encoder: bool = False,
        resize: Resize = None,
    ):
        super().__init__()
        self.encoder, self.resize = encoder, resize
        self.shortcut = MPConv(c_in, c_out, 1, 1) if c_in != c_out else nn.Identity()
        self.conv1 = MPConv(c_out if encoder else c_in, c_out, 3, 3)
        self.emb = MPConv(features, c_out)
        self.gain = nn.Parameter(torch.zeros(()))
        self.dropout = Dropout(dropout)
        self.conv2 = MPConv(c_out, c_out, 3, 3)
        self.attention = Attention(c_out, head_dim) if head_dim else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = resized(x, self.resize)
        if self.encoder:
            x = unit(self.shortcut(x))
        c = 1 + self.emb(emb, self.gain)
        h = mp_silu(self.conv1(mp_silu(x)) * c[:, :, None, None])
        h = self.conv2(self.dropout(h))
        x = mp_sum(x if self.encoder else self.shortcut(x), h, BALANCE)
        if self.attention is not None:
            x = mp_sum(x, self.attention(x), BALANCE)
        return x.clamp(-LIMIT, LIMIT)


class EDM2UNet(UNetwork):
    """x (B, in_channels, H, W), label (B,), classes (B,) -> (B, out_channels, H, W), exactly 0 at initialisation.

    Level i works on images of H/2^i × W/2^i pixels. With `prediction=edm`, x has magnitude 1 and label is log(σ)/4. The
    defaults are EDM2-S (table 6). If the variance is learned, out_channels is twice in_channels.
    """

    def __init__(
        self,
        in_channels: Annotated[int, Ge(1)] = 3,
        out_channels: Annotated[int, Ge(1)] = 3,
        channels: Sequence[Annotated[int, Ge(1)]] = (192, 384, 576, 768),
        blocks: Annotated[int, Ge(1)] = 3,
        attention: Sequence[bool] = (False, False, True, True),
        dropout: Annotated[float, Ge(0), Le(1)] = 0.0,
        head_dim: Annotated[int, Ge(1)] = 64,
        classes: Annotated[int, Ge(0)] = 0,
        bandwidth: Annotated[float, Gt(0)] = 1.0,
        checkpointing: bool = False,
        augment: Annotated[int, Ge(0)] = 0,
    ):
        super().__init__(channels, attention, head_dim, 1, classes, checkpointing)
        self.features, self.dropout, self.head_dim = max(channels), dropout, head_dim
        self.fourier = MPFourier(channels[0], bandwidth)
        self.noise = MPConv(channels[0], self.features)
        if classes:
            self.label = MPConv(classes + 1, self.features)
            self.ends = (*self.ends, "label")
        self.labels = augment
        if augment:
            self.augment = MPConv(augment, self.features)
        self.stem = MPConv(in_channels + 1, channels[0], 3, 3)
        self.build(channels, attention, blocks)
        self.out = MPConv(channels[0], out_channels, 3, 3)
        self.gain = nn.Parameter(torch.zeros(()))

    def unit(self, c_in: int, c_out: int, attend: bool = False, resize: Resize = None, encoder: bool = False) -> Any:
        return Block(c_in, c_out, self.features, self.dropout, self.head_dim if attend else None, encoder, resize)

    def joined(self, block: nn.Module, h: Tensor, skip: Tensor, emb: Tensor) -> Tensor:
        return block(mp_cat(h, skip), emb)

    def embedding(self, label: Tensor, rows: Tensor | None, augment: Tensor | None) -> Tensor:
        """(B, features): the embedding of the label, of the class, a one-hot vector of magnitude 1 (figure 21), etc."""
        dtype = self.noise.weight.dtype
        emb = self.noise(self.fourier(label).to(dtype))
        if rows is not None:
            one_hot = F.one_hot(rows, self.classes + 1).to(dtype)
            emb = mp_sum(emb, self.label(one_hot * math.sqrt(self.classes + 1)), 0.5)
        if augment is not None:
            emb = mp_sum(emb, self.augment(F.pad(augment.to(dtype), (0, self.labels - augment.shape[1]))), 0.5)
        return mp_silu(emb)

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        self.check_size(*x.shape[2:])
        if self.training:
            for module in self.modules():
                if isinstance(module, MPConv):
                    module.force()
        emb = self.embedding(label, self.class_rows(classes, label), augment)
        h = self.stem(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))  # the weights of the ones act as the bias
        return self.out(self.through(h, emb), self.gain)
