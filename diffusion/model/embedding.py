"""The embedding of the noise label and the class: sinusoids of the label, a small MLP, and a vector per class."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.errors import UserError


def sinusoidal(label: Tensor, width: int, shift: int = 1) -> Tensor:
    """[sin(label·ω), cos(label·ω)] (B, width) of label (B,), ω_k = 10000^(−k/(width/2 − shift)), k = 0 … width/2 − 1.

    Vaswani et al. 2017, §3.5, in DDPM's order (sines first); `shift` is 1 in DDPM and 0 in ADM. Always in float32: in
    bfloat16 the labels 998 and 999 would be the same number.
    """
    half = width // 2
    k = torch.arange(half, dtype=torch.float32, device=label.device)
    omega = torch.exp(-math.log(10000) * k / (half - shift))
    phase = label.float()[:, None] * omega
    return torch.cat([phase.sin(), phase.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """label (B,), rows (B,), augment (B, A) -> (B, features): silu(W₂ silu(W₁ sinusoidal(label)) + class vector).

    DDPM applies the outer silu in each residual block. Here it is applied once, with the same result. The class vector
    is added as in ADM (Dhariwal, Nichol 2021, section 3) and DiT.

    Args:
        width: the number of sinusoids.
        features: the length of the embedding.
        classes: K; `rows` are from 0 to K, where K means "no class". 0: no classes, and `rows` is None.
        shift: the shift of the frequencies, see `sinusoidal`.
        cosines_first: [cos, sin] instead of [sin, cos], as in ADM and DiT.
        augment: A, the number of augmentation labels; W_a·labels is added to the sinusoids, as in EDM's code, and W_a
            is zero-initialised. 0: no augmentation.

    Raises UserError for a width that is odd or too small.
    """

    def __init__(
        self, width: int, features: int, classes: int = 0, shift: int = 1, cosines_first: bool = False, augment: int = 0
    ):
        super().__init__()
        if width % 2 or width // 2 <= shift:
            raise UserError(f"model: the first width is {width}; it must be even and at least {2 * shift + 2}")
        self.width, self.shift, self.cosines_first = width, shift, cosines_first
        self.linear1 = nn.Linear(width, features)
        self.linear2 = nn.Linear(features, features)
        if classes:
            self.classes = nn.Embedding(classes + 1, features)
        if augment:
            self.augment = nn.Parameter(torch.zeros(width, augment))

    def forward(self, label: Tensor, rows: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        waves = sinusoidal(label, self.width, self.shift)
        if self.cosines_first:
            waves = waves.roll(self.width // 2, dims=1)
        waves = waves.to(self.linear1.weight.dtype)
        if augment is not None:
            waves = waves + F.linear(augment.to(waves.dtype), self.augment)
        emb = self.linear2(F.silu(self.linear1(waves)))
        return F.silu(emb if rows is None else emb + self.classes(rows))
