"""What the tests of several networks share."""

import torch
from torch import nn


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """`network` with random noise added to all weights, also the zero-initialised ones; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval()
