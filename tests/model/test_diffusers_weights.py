"""The U-Net and diffusers' `UNet2DModel` are the same network: weights convert both ways and the outputs agree."""

import pytest
import torch
from torch import Tensor, nn

from diffusion.model import UNet
from diffusion.model.diffusers import from_diffusers, to_diffusers

diffusers = pytest.importorskip("diffusers")

SETTINGS = {
    "unet_small": {"channels": (16, 32, 64, 64), "attention": (False, False, True, False), "groups": 8},
    "unet_base": {"channels": (32, 64, 64, 64), "attention": (False, True, False, False), "groups": 32, "dropout": 0.1},
    "unet_tiny": {"channels": (16, 24, 32, 48), "attention": (False, False, True, True), "blocks": 1, "groups": 8},
    "heads": {"channels": (16, 32), "attention": (True, True), "groups": 4, "head_dim": 8, "out_channels": 6},
}


def theirs(channels, attention, groups, blocks=2, dropout=0.0, head_dim=None, out_channels=3) -> nn.Module:  # type: ignore[no-untyped-def]
    return diffusers.UNet2DModel(
        out_channels=out_channels,
        block_out_channels=channels,
        layers_per_block=blocks,
        down_block_types=[f"{'Attn' * attend}DownBlock2D" for attend in attention],
        up_block_types=[f"{'Attn' * attend}UpBlock2D" for attend in reversed(attention)],
        dropout=dropout,
        norm_num_groups=groups,
        attention_head_dim=head_dim,
        norm_eps=1e-6,
        downsample_padding=0,
        freq_shift=1,
        flip_sin_to_cos=False,
    )


def randomised(network: nn.Module) -> nn.Module:
    """`network` with all weights drawn at random, so that every path has an effect; in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + 0.5 * (parameter == 1))
    return network.eval()


def agree(ours: nn.Module, other: nn.Module, height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 731])
    with torch.no_grad():
        y, expected = ours(x, label.float()), other(x, label).sample
    assert expected.std() > 0.01
    assert relative(y, expected) < 1e-5


def relative(y: Tensor, expected: Tensor) -> float:
    return ((y - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 48)])
def test_weights_from_diffusers_give_its_outputs(name: str, height: int, width: int) -> None:
    other, ours = randomised(theirs(**SETTINGS[name])), UNet(**SETTINGS[name]).eval()
    ours.load_state_dict(from_diffusers(other.state_dict()))
    agree(ours, other, height, width)


@pytest.mark.parametrize("name", SETTINGS)
def test_weights_to_diffusers_give_our_outputs(name: str) -> None:
    ours, other = randomised(UNet(**SETTINGS[name])), theirs(**SETTINGS[name]).eval()
    other.load_state_dict(to_diffusers(ours.state_dict()))
    agree(ours, other, 16, 32)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_round_trip_is_the_identity(name: str) -> None:
    weights = randomised(UNet(**SETTINGS[name])).state_dict()
    back = from_diffusers(to_diffusers(weights))
    assert list(back) == list(weights)
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def test_the_structure_matches_the_published_ddpm_cifar10() -> None:
    with torch.device("meta"):
        settings = {"channels": (128, 256, 256, 256), "attention": (False, True, False, False), "groups": 32}
        ours, other = UNet(**settings), theirs(**settings)
    expected = {key: tensor.shape for key, tensor in other.state_dict().items()}
    assert {key: tensor.shape for key, tensor in to_diffusers(ours.state_dict()).items()} == expected
    assert sum(p.numel() for p in ours.parameters()) == 35_746_307


def test_weights_of_another_architecture_are_named_in_the_error() -> None:
    with pytest.raises(KeyError, match=r"class_embedding\.weight"):
        from_diffusers({"class_embedding.weight": torch.zeros(1)})
    with pytest.raises(KeyError, match=r"bottleneck\.conv1\.weight"):
        to_diffusers({"bottleneck.conv1.weight": torch.zeros(1)})
