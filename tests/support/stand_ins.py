"""In place of a network and of the random streams, for the mathematics alone."""

import torch
from torch import Tensor, nn


class Pseudo(nn.Module):
    """A fixed function of (x, label) in place of a network."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(1.3 * x + 0.002 * label.reshape(-1, 1, 1, 1)) + 0.1 * x.roll(1, dims=-1)


class Replay:
    """Streams that hand out prepared noise, the same that the other library is given."""

    def __init__(self, *noise: Tensor):
        self.noise = list(noise)

    def normal_like(self, x: Tensor) -> Tensor:
        return self.noise.pop(0).to(x.dtype)


class Bulk:
    """Streams of one generator, for thousands of small examples."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def normal_like(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
