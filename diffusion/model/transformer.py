"""Transformers over patches of the image: DiT (Peebles, Xie 2023) and JiT (Li, He 2025).

    patches ── linear ── + positions ── blocks ── norm, linear ── patches
           the embedding of label and class shifts, scales and gates each branch (adaLN-Zero)

DiT, of "Scalable Diffusion Models with Transformers", section 3, is equivalent to diffusers' `DiTTransformer2DModel`.

JiT, of "Back to Basics: Let Denoising Generative Models Denoise" (arXiv:2511.13720), predicts the image from large
patches of pixels. It differs from DiT by RMSNorm, SwiGLU, rotary position embeddings in two dimensions, normalised
queries and keys, and a bottleneck in the patch embedding; and, unless `context` and `image_time` are those of the
paper's code, from that, because the class acts only through the modulation, and the time embedding receives 1000·t − 1.
Dropout acts in all blocks. Samplers use the estimate of x0 as it is; the paper's code divides x0 − x_t by
max(sigma_t, 0.05) there, too, as in `velocity`.
"""

import math
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.model.network import Dropout, Network, TimeEmbedding

EPS = 1e-6  # of every norm
WAVES = 256  # number of sinusoids of the label
Angles = tuple[()] | tuple[Tensor, Tensor]  # cos and sin, see `rotations`; none without rotary positions


class RMSNorm(nn.RMSNorm):
    """x/√(mean(x²) + ε)·w over the last dimension (Zhang, Sennrich 2019), with w cast for autocast."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def phases(height: int, width: int, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """row·ω_k and column·ω_k of each token, each (height·width, n), with ω_k = 10000^(−k/n); float32."""
    k = torch.arange(n, dtype=torch.float32, device=device)
    omega = torch.exp(-math.log(10000) * k / n)
    row, column = (torch.outer(torch.arange(m, dtype=torch.float32, device=device), omega) for m in (height, width))
    return row.repeat_interleave(width, 0), column.repeat(height, 1)


def positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """(height·width, channels): the sines and cosines of a token's column, then of its row (Vaswani et al. 2017)."""
    row, column = phases(height, width, channels // 4, device)
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1)


def rotations(height: int, width: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, each (height·width, head_dim/2), of the angles for `rotate`, one for each pair of a head; float32.

    They are row·ω_k for the first half of the pairs and column·ω_k for the second, ω_k = 10000^(−k/(head_dim/4)).
    """
    angle = torch.cat(phases(height, width, head_dim // 4, device), dim=1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (…, N, head_dim) with each pair (k, k + head_dim/2) rotated by its angle (RoFormer; Su et al. 2021, eq. 34)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale)·x + shift."""
    return (1 + scale) * x + shift


def to_image(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """tokens (B, N, patch²·C) -> (B, C, height, width); a token stores its pixels row by row, channels last."""
    pixels = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, (height // patch, width // patch))
    return pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class Block(nn.Module):
    """DiT's block: tokens x (B, N, width), emb (B, width) -> (B, N, width), self-attention, then an MLP (figure 3).

    With β₁, γ₁, α₁, β₂, γ₂, α₂ = W emb:  x ← x + α₁·attention((1 + γ₁)·norm₁(x) + β₁), then x ← x + α₂·mlp(…) in the
    same way. The MLP has `hidden` features, which its first layer computes from `gates` times as many.
    """

    norm: Any = staticmethod(partial(nn.LayerNorm, eps=EPS, elementwise_affine=False))
    head_norm: Any = nn.Identity  # of queries and keys

    def __init__(self, width: int, heads: int, hidden: float, dropout: float, gates: int = 1):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.norm1 = self.norm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q, self.norm_k = self.head_norm(width // heads), self.head_norm(width // heads)
        self.out = nn.Linear(width, width)
        self.norm2 = self.norm(width)
        self.mlp1 = nn.Linear(width, gates * int(hidden))
        self.mlp2 = nn.Linear(int(hidden), width)
        self.dropout = Dropout(dropout)

    def attention(self, x: Tensor, *where: Tensor) -> Tensor:
        """W_o softmax(q kᵀ/√head_dim) v; JiT normalises q and k and rotates them by `where`, from `rotations`."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).transpose(1, 3).unbind(2)  # each (B, heads, N, ·)
        q, k = self.norm_q(q), self.norm_k(k)
        if where:
            q, k = rotate(q, *where), rotate(k, *where)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.dropout(self.out(mixed))

    def mlp(self, x: Tensor) -> Tensor:
        """W₂ gelu(W₁ x), with the tanh approximation of gelu."""
        return self.mlp2(self.dropout(F.gelu(self.mlp1(x), approximate="tanh")))

    def forward(self, x: Tensor, emb: Tensor, *where: Tensor) -> Tensor:
        beta1, gamma1, alpha1, beta2, gamma2, alpha2 = self.modulation(emb)[:, None].chunk(6, dim=2)
        x = x + alpha1 * self.attention(modulate(self.norm1(x), beta1, gamma1), *where)
        return x + alpha2 * self.mlp(modulate(self.norm2(x), beta2, gamma2))


class JiTBlock(Block):
    """DiT's block with other norms and a SwiGLU: tokens x (B, N, width), emb (B, width), cos, sin -> (B, N, width)."""

    norm = head_norm = staticmethod(partial(RMSNorm, eps=EPS))

    def __init__(self, width: int, heads: int, hidden: float, dropout: float):
        # 2/3 gives three matrices as many weights as two of `hidden`
        super().__init__(width, heads, hidden * 2 / 3, dropout, gates=2)

    def mlp(self, x: Tensor) -> Tensor:
        """W₃ (silu(W₁ x)·W₂ x): SwiGLU (Shazeer 2020, eq. 6)."""
        gate, h = self.mlp1(x).chunk(2, dim=2)
        return self.mlp2(self.dropout(F.silu(gate) * h))


class DiT(Network):
    """x (B, in_channels, H, W), label (B,), classes (B,) -> (B, out_channels, H, W), exactly 0 at initialisation.

    One network works at all sizes that are multiples of `patch`. The sinusoids of the label have the frequencies
    10000^(−k/(128 − shift)), k = 0 … 127; `shift` is 1 in diffusers and 0 in the paper's code. With `image_time`, as in
    SiT's, the time embedding receives the share of the image, 1 − t. The defaults are DiT-S/2.
    """

    block: type[Block] = Block
    rotary = False  # whether attention depends on the positions of the tokens

    def __init__(
        self,
        in_channels: Annotated[int, Ge(1)] = 3,
        out_channels: Annotated[int, Ge(1)] = 3,
        patch: Annotated[int, Ge(1)] = 2,
        width: Annotated[int, Ge(4)] = 384,
        depth: Annotated[int, Ge(1)] = 12,
        heads: Annotated[int, Ge(1)] = 6,
        mlp_ratio: Annotated[float, Gt(0)] = 4.0,
        dropout: Annotated[float, Ge(0), Le(1)] = 0.0,
        classes: Annotated[int, Ge(0)] = 0,
        checkpointing: bool = False,
        augment: Annotated[int, Ge(0)] = 0,
        shift: Annotated[int, Ge(0), Le(1)] = 1,
        image_time: bool = False,
    ):
        super().__init__(patch, classes, checkpointing)
        if width % (step := math.lcm(4, (4 if self.rotary else 1) * heads)):  # for `rotations` and `positions`
            near = max(1, round(width / step)) * step
            raise UserError(f"model: width {width} must be a multiple of {step} for {heads} heads, such as {near}")
        self.patch, self.head_dim, self.image_time = patch, width // heads, image_time
        self.time = TimeEmbedding(WAVES, width, classes, shift, cosines_first=True, augment=augment)
        self.embed(in_channels, width)
        self.blocks = nn.ModuleList(self.block(width, heads, mlp_ratio * width, dropout) for _ in range(depth))
        self.norm = self.block.norm(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch**2 * out_channels)
        self.initialise()

    def embed(self, in_channels: int, width: int) -> None:
        self.reduce: nn.Module = nn.Identity()
        self.stem = nn.Conv2d(in_channels, width, self.patch, stride=self.patch)

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        self.check_size(*x.shape[2:])
        class_rows = self.class_rows(classes, label)
        emb = self.time(self.moment(label), class_rows, augment)
        h = self.stem(self.reduce(x))  # (B, width, H/patch, W/patch)
        _, channels, rows, columns = h.shape
        where: Angles = rotations(rows, columns, self.head_dim, h.device) if self.rotary else ()
        h = h.flatten(2).transpose(1, 2) + positions(rows, columns, channels, h.device).to(h.dtype)
        for i, block in enumerate(self.blocks):
            h, where = self.before(i, h, where, class_rows)
            h = self.run(block, h, emb, *where)
        h = h[:, -rows * columns :]
        beta, gamma = self.modulation(emb)[:, None].chunk(2, dim=2)
        return to_image(self.out(modulate(self.norm(h), beta, gamma)), self.patch, x.shape[2], x.shape[3])

    def moment(self, label: Tensor) -> Tensor:
        """What the time embedding receives, (B,), for this label (B,)."""
        return 1 - (label + 1) / 1000 if self.image_time else label

    def before(self, i: int, h: Tensor, where: Angles, rows: Tensor | None) -> tuple[Tensor, Angles]:
        """The tokens h (B, N, width) and their angles for block i; `rows` (B,) are those of the table of classes."""
        return h, where

    def initialise(self) -> None:
        """As in DiT: Glorot-uniform weights, zero biases; N(0, 0.02²) in the embedding; zero modulations and output."""
        for name, parameter in self.named_parameters():
            if name.endswith(("bias", "time.augment")) or "modulation" in name or name.startswith("out."):
                nn.init.zeros_(parameter)
            elif name.startswith(("time.", "context")):
                nn.init.normal_(parameter, std=0.02)
            elif parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter.view(len(parameter), -1))


class JiT(DiT):
    """x (B, in_channels, H, W), label (B,), classes (B,) -> (B, out_channels, H, W), exactly 0 at initialisation.

    `bottleneck` is the length to which a patch is reduced before it becomes a token. From block `context_from` on,
    `context` learned tokens are added, each plus the vector of the class. The other arguments are those of `DiT`. The
    defaults are JiT-B/4, for images of 64×64.
    """

    ends = ("reduce", "out")
    block = JiTBlock
    rotary = True

    def __init__(
        self,
        bottleneck: Annotated[int, Ge(1)] = 128,
        patch: Annotated[int, Ge(1)] = 4,
        width: Annotated[int, Ge(4)] = 768,
        heads: Annotated[int, Ge(1)] = 12,
        context: Annotated[int, Ge(0)] = 0,
        context_from: Annotated[int, Ge(0)] = 0,
        **options: Any,
    ):
        self.bottleneck, self.tokens, self.context_from = bottleneck, context, context_from
        super().__init__(patch=patch, width=width, heads=heads, shift=0, **options)

    def embed(self, in_channels: int, width: int) -> None:
        self.reduce = nn.Conv2d(in_channels, self.bottleneck, self.patch, stride=self.patch, bias=False)
        self.stem = nn.Conv2d(self.bottleneck, width, 1)
        if self.tokens:
            self.context = nn.Parameter(torch.zeros(self.tokens, width))

    def before(self, i: int, h: Tensor, where: Angles, rows: Tensor | None) -> tuple[Tensor, Angles]:
        if not self.tokens or i != self.context_from:
            return h, where
        first = self.context.expand(len(h), -1, -1)
        first = first if rows is None else first + self.time.classes(rows)[:, None]
        cos, sin = (F.pad(angle, (0, 0, self.tokens, 0), value=v) for angle, v in zip(where, (1.0, 0.0), strict=True))
        return torch.cat([first.to(h.dtype), h], dim=1), (cos, sin)  # not rotated
