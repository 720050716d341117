"""Test doubles for a network and for random streams."""

import torch
from torch import Tensor, nn


class FixedNetwork(nn.Module):
    """A fixed function of (x, label) instead of a network."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(1.3 * x + 0.002 * label.reshape(-1, 1, 1, 1)) + 0.1 * x.roll(1, dims=-1)


class ReplayStreams:
    """Streams that return prepared noise, to use the same noise in another library."""

    def __init__(self, *noise: Tensor):
        self.noise = list(noise)

    def normal_like(self, x: Tensor) -> Tensor:
        return self.noise.pop(0).to(x.dtype)


class SharedStream:
    """Streams with a single generator for all examples, which is fast for thousands of small examples."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def normal_like(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
