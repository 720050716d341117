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


def filled(network: nn.Module, seed: int = 0) -> nn.Module:
    """`network` in evaluation mode with all weights random, each layer keeping the size of its input."""
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        if weight.requires_grad:
            spread = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
            weight.data = torch.randn(weight.shape, generator=generator) * spread + 0.5 * (weight.ndim == 1)
    return network.eval()
