"""The transformer of "Back to Basics: Let Denoising Generative Models Denoise" (JiT; Li, He 2025, arXiv:2511.13720).

It works on large patches of pixels and predicts the image (section 4). A patch may contain more numbers than a token,
because images lie near a low-dimensional manifold; noise and velocities do not. So train it with `prediction=x0`,
`schedule=flow` and `weighting=velocity`. The paper's times are logit-normal, with mean 0.8 and standard deviation 0.8
in this project's t, which grows with the noise.

It differs from DiT by RMSNorm, SwiGLU, rotary position embeddings in two dimensions, normalised queries and keys, and
a bottleneck in the patch embedding. Three things differ from the paper's code: there are no class tokens in the
sequence (the class acts only through the modulation), the time embedding receives 1000·t − 1 instead of t, and dropout
acts in all blocks instead of the middle half of them.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from diffusion.model.dit import EPS, WAVES, check_heads, initialise, modulate, phases, positions, to_image
from diffusion.model.dropout import Dropout
from diffusion.model.embedding import TimeEmbedding
from diffusion.model.network import Network


class RMSNorm(nn.RMSNorm):
    """x/√(mean(x²) + ε)·w over the last dimension (Zhang, Sennrich 2019), with w cast to the dtype of x.

    Under autocast the two dtypes differ, and torch's fused kernel needs a single one.
    """

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def rotations(height: int, width: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, each (height·width, head_dim/2), of the angles for `rotate`, one for each pair of a head; float32.

    The angles of the first half of the pairs are row·ω_k, those of the second half column·ω_k, with ω_k =
    10000^(−k/(head_dim/4)).
    """
    angle = torch.cat(phases(height, width, head_dim // 4, device), dim=1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (…, N, head_dim) with each pair (k, k + head_dim/2) rotated by its angle (RoFormer; Su et al. 2021, eq. 34).

    The inner product of two rotated vectors depends on their positions only through the difference.
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Block(nn.Module):
    """tokens x (B, N, width), emb (B, width), cos, sin -> (B, N, width): self-attention, then a SwiGLU.

    With β₁, γ₁, α₁, β₂, γ₂, α₂ = W emb:  x ← x + α₁·attention((1 + γ₁)·norm₁(x) + β₁), then x ← x + α₂·mlp(…) in the
    same way (adaLN-Zero, as in DiT).
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.norm1 = RMSNorm(width, EPS)
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = RMSNorm(width // heads, EPS)
        self.norm_k = RMSNorm(width // heads, EPS)
        self.out = nn.Linear(width, width)
        self.norm2 = RMSNorm(width, EPS)
        self.mlp1 = nn.Linear(width, 2 * hidden)
        self.mlp2 = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def attention(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """W_o softmax(q kᵀ/√head_dim) v, where q and k are normalised, then rotated."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).transpose(1, 3).unbind(2)  # each (B, heads, N, ·)
        q, k = rotate(self.norm_q(q), cos, sin), rotate(self.norm_k(k), cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.dropout(self.out(mixed))

    def mlp(self, x: Tensor) -> Tensor:
        """W₃ (silu(W₁ x)·W₂ x): SwiGLU (Shazeer 2020, eq. 6)."""
        gate, h = self.mlp1(x).chunk(2, dim=2)
        return self.mlp2(self.dropout(F.silu(gate) * h))

    def forward(self, x: Tensor, emb: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        beta1, gamma1, alpha1, beta2, gamma2, alpha2 = self.modulation(emb)[:, None].chunk(6, dim=2)
        x = x + alpha1 * self.attention(modulate(self.norm1(x), beta1, gamma1), cos, sin)
        return x + alpha2 * self.mlp(modulate(self.norm2(x), beta2, gamma2))


class JiT(Network):
    """x (B, in_channels, H, W), label (B,), classes (B,) -> (B, out_channels, H, W), exactly 0 at initialisation.

    H and W must be multiples of `patch`. One network works at all such sizes, because no weight depends on the
    position. label is 1000·t − 1. The defaults are JiT-B/4, for images of 64×64.

    Args:
        in_channels: the channels of the image.
        out_channels: the channels of the prediction; twice `in_channels` if the variance is learned.
        patch: the side of a patch, in pixels; each patch becomes a token.
        bottleneck: the length to which a patch is reduced before it becomes a token.
        width: the length of a token; a multiple of 4 times `heads`.
        depth: the number of blocks.
        heads: the number of attention heads.
        mlp_ratio: 3/2 of the SwiGLU's hidden width divided by `width`, which gives it as many weights as an MLP of this
            ratio.
        dropout: the dropout probability of the attention's output and in the SwiGLU.
        classes: K, the number of classes; 0: an unconditional network.
        checkpointing: keep only the inputs of blocks for the backward pass: less memory, up to half more time.
        augment: the number of augmentation labels; 0: none.

    Raises:
        UserError: if `width` is not a multiple of 4 times `heads`.
    """

    ends = ("reduce", "out")

    def __init__(
        self,
        in_channels: Annotated[int, Ge(1)] = 3,
        out_channels: Annotated[int, Ge(1)] = 3,
        patch: Annotated[int, Ge(1)] = 4,
        bottleneck: Annotated[int, Ge(1)] = 128,
        width: Annotated[int, Ge(4)] = 768,
        depth: Annotated[int, Ge(1)] = 12,
        heads: Annotated[int, Ge(1)] = 12,
        mlp_ratio: Annotated[float, Gt(0)] = 4.0,
        dropout: Annotated[float, Ge(0), Le(1)] = 0.0,
        classes: Annotated[int, Ge(0)] = 0,
        checkpointing: bool = False,
        augment: Annotated[int, Ge(0)] = 0,
    ):
        super().__init__(patch, classes, checkpointing)
        check_heads(width, heads, multiple=4)
        self.patch = patch
        self.head_dim = width // heads
        hidden = int(mlp_ratio * width * 2 / 3)
        self.time = TimeEmbedding(WAVES, width, classes, shift=0, cosines_first=True, augment=augment)
        self.reduce = nn.Conv2d(in_channels, bottleneck, patch, stride=patch, bias=False)
        self.stem = nn.Conv2d(bottleneck, width, 1)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = RMSNorm(width, EPS)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch**2 * out_channels)
        initialise(self)

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        height, width = x.shape[2:]
        self.check_size(height, width)
        emb = self.time(label, self.class_rows(classes, label), augment)
        h = self.stem(self.reduce(x)).flatten(2).transpose(1, 2)
        rows, columns = height // self.patch, width // self.patch
        h = h + positions(rows, columns, h.shape[2], h.device).to(h.dtype)
        cos, sin = rotations(rows, columns, self.head_dim, h.device)
        for block in self.blocks:
            h = self.run(block, h, emb, cos, sin)
        beta, gamma = self.modulation(emb)[:, None].chunk(2, dim=2)
        return to_image(self.out(modulate(self.norm(h), beta, gamma)), self.patch, height, width)
