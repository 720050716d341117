"""Shared by the tests of several networks: random weights, a network of a few numbers, and a random autoencoder."""

import torch
from torch import Tensor, nn


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


class Affine(nn.Module):
    """weight·x + bias; with a `spread`, also tanh(spread·x) in as many more channels."""

    def __init__(self, weight: float = 1.0, bias: float = 0.0, spread: float | None = None):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([weight, bias, *([] if spread is None else [spread])]))

    def forward(self, x: Tensor, label: Tensor, augment: Tensor | None = None) -> Tensor:
        y = self.weights[0] * x + self.weights[1]
        return y if len(self.weights) == 2 else torch.cat([y, (self.weights[2] * x).tanh()], dim=1)


def saved(folder, seed=0, **changes):
    """The folder of a random AutoencoderKL of factor 2, with four channels."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16}
    AutoencoderKL(**blocks | sizes | changes).save_pretrained(folder)
    return folder
