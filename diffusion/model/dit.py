"""The transformer of "Scalable Diffusion Models with Transformers" (DiT; Peebles, Xie 2023, section 3).

It is equivalent to diffusers' `DiTTransformer2DModel` (see `diffusion.model.diffusers`).

    patches ── linear ── + positions ── blocks ── norm, linear ── patches
           the embedding of label and class shifts, scales and gates each branch (adaLN-Zero)
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.model.dropout import Dropout
from diffusion.model.embedding import TimeEmbedding
from diffusion.model.network import Network

EPS = 1e-6  # of every norm
WAVES = 256  # number of sinusoids of the label


def phases(height: int, width: int, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """row·ω_k and column·ω_k of each token, each (height·width, n), with ω_k = 10000^(−k/n); float32."""
    k = torch.arange(n, dtype=torch.float32, device=device)
    omega = torch.exp(-math.log(10000) * k / n)
    row, column = (torch.outer(torch.arange(m, dtype=torch.float32, device=device), omega) for m in (height, width))
    return row.repeat_interleave(width, 0), column.repeat(height, 1)


def positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """(height·width, channels): the sines and cosines of a token's column, then of its row; float32.

    The sinusoids of Vaswani et al. 2017, §3.5, for two axes.
    """
    row, column = phases(height, width, channels // 4, device)
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale)·x + shift."""
    return (1 + scale) * x + shift


def to_image(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """tokens (B, N, patch²·C) -> (B, C, height, width); a token stores its pixels row by row, channels last."""
    pixels = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, (height // patch, width // patch))
    return pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class Block(nn.Module):
    """tokens x (B, N, width), emb (B, width) -> (B, N, width): self-attention, then an MLP (figure 3).

    With β₁, γ₁, α₁, β₂, γ₂, α₂ = W emb:  x ← x + α₁·attention((1 + γ₁)·norm₁(x) + β₁), then x ← x + α₂·mlp(…) in the
    same way.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.norm1: nn.Module = nn.LayerNorm(width, EPS, elementwise_affine=False)
        self.norm2: nn.Module = self.norm1
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp1 = nn.Linear(width, hidden)
        self.mlp2 = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def attention(self, x: Tensor, *where: Tensor) -> Tensor:
        """W_o softmax(q kᵀ/√head_dim) v. `where` is `Transformer.where` of the tokens."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).transpose(1, 3).unbind(2)  # each (B, heads, N, ·)
        mixed = F.scaled_dot_product_attention(*self.placed(q, k, *where), v).transpose(1, 2).flatten(2)
        return self.dropout(self.out(mixed))

    def placed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """The queries and keys as attention compares them, with their positions if it depends on them."""
        return q, k

    def mlp(self, x: Tensor) -> Tensor:
        """W₂ gelu(W₁ x), with the tanh approximation of gelu."""
        return self.mlp2(self.dropout(F.gelu(self.mlp1(x), approximate="tanh")))

    def forward(self, x: Tensor, emb: Tensor, *where: Tensor) -> Tensor:
        beta1, gamma1, alpha1, beta2, gamma2, alpha2 = self.modulation(emb)[:, None].chunk(6, dim=2)
        x = x + alpha1 * self.attention(modulate(self.norm1(x), beta1, gamma1), *where)
        return x + alpha2 * self.mlp(modulate(self.norm2(x), beta2, gamma2))


class Transformer(Network):
    """x (B, in_channels, H, W), label (B,), classes (B,) -> (B, out_channels, H, W), exactly 0 at initialisation.

    H and W must be multiples of `patch`. One network works at all such sizes, because no weight depends on the
    position. label is 1000·t − 1. Subclasses define the layers: stem, blocks, norm, modulation and out.

    Args:
        in_channels: the channels of the image.
        out_channels: the channels of the prediction; twice `in_channels` if the variance is learned.
        patch: the side of a patch, in pixels; each patch becomes a token.
        width: the length of a token; a multiple of 4 and of `heads`.
        depth: the number of blocks.
        heads: the number of attention heads.
        mlp_ratio: the hidden width of the MLP divided by `width`.
        dropout: the dropout probability of the attention's output and in the MLP.
        augment: the number of augmentation labels; 0: none.

    Raises:
        UserError: if 4 does not divide the width, for `positions`, or `multiple` the width of each head.
    """

    time: TimeEmbedding
    stem: nn.Module
    blocks: nn.ModuleList
    norm: nn.Module
    modulation: nn.Linear
    out: nn.Linear

    def __init__(self, patch: int, width: int, heads: int, classes: int, checkpointing: bool, multiple: int = 1):
        super().__init__(patch, classes, checkpointing)
        self.patch = patch
        if width % (step := math.lcm(4, multiple * heads)):
            near = max(1, round(width / step)) * step
            raise UserError(f"model: width {width} must be a multiple of {step} for {heads} heads, such as {near}")

    def tokens(self, x: Tensor) -> Tensor:
        """(B, width, H/patch, W/patch)."""
        return self.stem(x)

    def where(self, height: int, width: int, device: torch.device) -> tuple[Tensor, ...]:
        """What each block needs to know of the positions of height·width tokens."""
        return ()

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        self.check_size(*x.shape[2:])
        emb = self.time(label, self.class_rows(classes, label), augment)
        h = self.tokens(x)
        _, channels, rows, columns = h.shape
        where = self.where(rows, columns, h.device)
        h = h.flatten(2).transpose(1, 2) + positions(rows, columns, channels, h.device).to(h.dtype)
        for block in self.blocks:
            h = self.run(block, h, emb, *where)
        beta, gamma = self.modulation(emb)[:, None].chunk(2, dim=2)
        return to_image(self.out(modulate(self.norm(h), beta, gamma)), self.patch, x.shape[2], x.shape[3])

    def initialise(self) -> None:
        """As in DiT: Glorot-uniform weights, zero biases; N(0, 0.02²) in the embedding; zero modulations and output.

        The weights of augmentation labels start at zero, as in every `TimeEmbedding`. The patch-embedding convolution
        is initialised as a linear layer.
        """
        for name, parameter in self.named_parameters():
            if name.endswith(("bias", "time.augment")) or "modulation" in name or name.startswith("out."):
                nn.init.zeros_(parameter)
            elif name.startswith("time."):
                nn.init.normal_(parameter, std=0.02)
            elif parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter.view(len(parameter), -1))


class DiT(Transformer):
    """x (B, in_channels, H, W), label (B,), classes (B,) -> (B, out_channels, H, W), exactly 0 at initialisation.

    The sinusoids of the label have the frequencies 10000^(−k/127), k = 0 … 127, as in diffusers; in the paper's code,
    they are 10000^(−k/128). The defaults are DiT-S/2 (table 1). The arguments are those of `Transformer`.
    """

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
    ):
        super().__init__(patch, width, heads, classes, checkpointing)
        self.time = TimeEmbedding(WAVES, width, classes, cosines_first=True, augment=augment)
        self.stem = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.blocks = nn.ModuleList(Block(width, heads, int(mlp_ratio * width), dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPS, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch**2 * out_channels)
        self.initialise()
