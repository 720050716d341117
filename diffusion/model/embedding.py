"""The time embedding of a network: sinusoids of the label, then a small MLP."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoidal(label: Tensor, width: int) -> Tensor:
    """[sin(label·ω), cos(label·ω)] (B, width) of label (B,), with ω_k = 10000^(−k/(width/2 − 1)), k = 0 … width/2 − 1.

    Vaswani et al. 2017, §3.5, in DDPM's order (sines first). Always in float32: in bfloat16 the labels 998 and 999
    would be the same number.
    """
    half = width // 2
    k = torch.arange(half, dtype=torch.float32, device=label.device)
    omega = torch.exp(-math.log(10000) * k / (half - 1))
    phase = label.float()[:, None] * omega
    return torch.cat([phase.sin(), phase.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """label (B,) -> (B, features): silu(W₂ silu(W₁ sinusoidal(label))).

    DDPM has the outer silu in each residual block. Here it is applied once, which gives the same result.
    """

    def __init__(self, width: int, features: int):
        super().__init__()
        self.width = width
        self.linear1 = nn.Linear(width, features)
        self.linear2 = nn.Linear(features, features)

    def forward(self, label: Tensor) -> Tensor:
        waves = sinusoidal(label, self.width).to(self.linear1.weight.dtype)
        return F.silu(self.linear2(F.silu(self.linear1(waves))))
