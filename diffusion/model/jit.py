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

from diffusion.model.dit import EPS, WAVES, Transformer, phases
from diffusion.model.dit import Block as DiTBlock
from diffusion.model.dropout import Dropout
from diffusion.model.embedding import TimeEmbedding


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


class Block(DiTBlock):
    """DiT's block with other norms and a SwiGLU: tokens x (B, N, width), emb (B, width), cos, sin -> (B, N, width)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        nn.Module.__init__(self)
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

    def placed(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The queries and keys, normalised, then rotated."""
        return rotate(self.norm_q(q), cos, sin), rotate(self.norm_k(k), cos, sin)

    def mlp(self, x: Tensor) -> Tensor:
        """W₃ (silu(W₁ x)·W₂ x): SwiGLU (Shazeer 2020, eq. 6)."""
        gate, h = self.mlp1(x).chunk(2, dim=2)
        return self.mlp2(self.dropout(F.silu(gate) * h))


class JiT(Transformer):
    """x (B, in_channels, H, W), label (B,), classes (B,) -> (B, out_channels, H, W), exactly 0 at initialisation.

    The defaults are JiT-B/4, for images of 64×64. The arguments are those of `Transformer`, and:

    Args:
        bottleneck: the length to which a patch is reduced before it becomes a token.
        width: the length of a token; a multiple of 4 times `heads`.
        mlp_ratio: 3/2 of the SwiGLU's hidden width divided by `width`, which gives it as many weights as an MLP of this
            ratio.
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
        super().__init__(patch, width, heads, classes, checkpointing, multiple=4)
        self.head_dim = width // heads
        hidden = int(mlp_ratio * width * 2 / 3)
        self.time = TimeEmbedding(WAVES, width, classes, shift=0, cosines_first=True, augment=augment)
        self.reduce = nn.Conv2d(in_channels, bottleneck, patch, stride=patch, bias=False)
        self.stem = nn.Conv2d(bottleneck, width, 1)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = RMSNorm(width, EPS)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch**2 * out_channels)
        self.initialise()

    def tokens(self, x: Tensor) -> Tensor:
        """See `Transformer.tokens`."""
        return self.stem(self.reduce(x))

    def where(self, height: int, width: int, device: torch.device) -> tuple[Tensor, ...]:
        """cos and sin of the rotations."""
        return rotations(height, width, self.head_dim, device)
