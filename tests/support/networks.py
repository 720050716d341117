"""Shared by the tests of several networks."""

import torch
from torch import nn


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """`network` in evaluation mode, with random noise added to all weights, including zero-initialized ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval()
