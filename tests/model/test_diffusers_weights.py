"""Our networks equal those of diffusers: weights convert both ways and the outputs agree."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.model import ADMUNet, DiT, UNet
from diffusion.model.diffusers import from_diffusers, to_diffusers
from diffusion.model.network import Network

diffusers = pytest.importorskip("diffusers")

UNETS: dict[str, tuple[type[UNet], dict[str, Any]]] = {
    "unet_small": (UNet, {"channels": (16, 32, 64, 64), "attention": (False, False, True, False), "groups": 8}),
    "unet_base": (
        UNet,
        {"channels": (32, 64, 64, 64), "attention": (False, True, False, False), "groups": 32, "dropout": 0.1},
    ),
    "unet_tiny": (
        UNet,
        {"channels": (16, 24, 32, 48), "attention": (False, False, True, True), "blocks": 1, "groups": 8},
    ),
    "classes": (UNet, {"channels": (16, 32), "attention": (False, True), "groups": 8, "classes": 5}),
    "heads": (
        UNet,
        {"channels": (16, 32), "attention": (True, True), "groups": 4, "head_dim": 8, "out_channels": 6},
    ),
    "unet_adm": (
        ADMUNet,
        {"channels": (16, 32, 48), "attention": (False, True, True), "groups": 8, "head_dim": 8, "classes": 5},
    ),
    "unet_adm_one_head": (
        ADMUNet,
        {"channels": (16, 24, 32), "attention": (True, False, False), "blocks": 1, "groups": 8, "head_dim": None},
    ),
}
DITS: dict[str, dict[str, Any]] = {
    "one_channel": {"in_channels": 1, "out_channels": 2, "patch": 4, "width": 48, "depth": 3, "heads": 3},
    "classes": {"patch": 2, "width": 32, "depth": 2, "heads": 4, "classes": 5, "dropout": 0.1},
}


def theirs(
    kind: type[UNet],
    channels: Sequence[int],
    attention: Sequence[bool],
    groups: int,
    blocks: int = 2,
    dropout: float = 0.0,
    head_dim: int | None = None,
    out_channels: int = 3,
    classes: int = 0,
) -> nn.Module:
    """Diffusers' network with the same settings."""
    adm = kind is ADMUNet
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if adm else ("DownBlock2D", "UpBlock2D")
    style = (
        {
            "norm_eps": 1e-5,
            "freq_shift": 0,
            "flip_sin_to_cos": True,
            "attn_norm_num_groups": groups,
            "resnet_time_scale_shift": "scale_shift",
            "downsample_type": "resnet",
            "upsample_type": "resnet",
        }
        if adm
        else {"norm_eps": 1e-6, "freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0}
    )
    return diffusers.UNet2DModel(
        out_channels=out_channels,
        block_out_channels=channels,
        layers_per_block=blocks,
        down_block_types=["AttnDownBlock2D" if attend else down for attend in attention],
        up_block_types=["AttnUpBlock2D" if attend else up for attend in reversed(attention)],
        dropout=dropout,
        norm_num_groups=groups,
        attention_head_dim=head_dim,
        num_class_embeds=classes + 1 if classes else None,
        **style,
    )


def randomised(network: nn.Module) -> nn.Module:
    """`network` in evaluation mode with all weights random, so every path has an effect."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + 0.5 * (parameter == 1))
    return network.eval()


def agree(ours: nn.Module, other: nn.Module, height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 731])
    classes = torch.tensor([3, ours.classes]) if ours.classes else None
    with torch.no_grad():
        y, expected = ours(x, label.float(), classes), other(x, label, class_labels=classes).sample
    assert expected.std() > 0.01
    assert relative(y, expected) < 1e-5


def shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def relative(y: Tensor, expected: Tensor) -> float:
    return ((y - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 48)])
def test_weights_converted_from_diffusers_reproduce_its_outputs(name: str, height: int, width: int) -> None:
    kind, settings = UNETS[name]
    other, ours = randomised(theirs(kind, **settings)), kind(**settings).eval()
    ours.load_state_dict(from_diffusers(other.state_dict()))
    agree(ours, other, height, width)


@pytest.mark.parametrize("name", UNETS)
def test_weights_converted_to_diffusers_reproduce_our_outputs(name: str) -> None:
    kind, settings = UNETS[name]
    ours, other = randomised(kind(**settings)), theirs(kind, **settings).eval()
    other.load_state_dict(to_diffusers(ours.state_dict()))
    agree(ours, other, 16, 32)


@pytest.mark.parametrize(("kind", "settings"), [*UNETS.values(), (DiT, DITS["classes"])])
def test_weights_converted_to_diffusers_and_back_are_identical(kind: type[Network], settings: dict[str, Any]) -> None:
    weights = randomised(kind(**settings)).state_dict()
    back = from_diffusers(to_diffusers(weights))
    assert list(back) == list(weights)
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def test_the_structure_matches_the_published_ddpm_cifar10() -> None:
    with torch.device("meta"):
        settings: dict[str, Any] = {
            "channels": (128, 256, 256, 256), "attention": (False, True, False, False), "groups": 32,
        }  # fmt: skip
        ours, other = UNet(**settings), theirs(UNet, **settings)
    assert shapes(to_diffusers(ours.state_dict())) == shapes(other.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == 35_746_307


def test_the_structure_matches_the_published_adm_imagenet_64() -> None:
    """Compared with guided-diffusion's 64x64_diffusion.pt, which learns the variance and has no row for "no class"."""
    with torch.device("meta"):
        settings: dict[str, Any] = {
            "channels": (192, 384, 576, 768), "attention": (False, True, True, True), "blocks": 3, "groups": 32,
            "dropout": 0.1, "head_dim": 64, "classes": 1000, "out_channels": 6,
        }  # fmt: skip
        ours, other = ADMUNet(**settings), theirs(ADMUNet, **settings)
    assert shapes(to_diffusers(ours.state_dict())) == shapes(other.state_dict())
    assert sum(p.numel() for p in ours.parameters()) - 4 * 192 == 295_904_454


def their_dit(
    patch: int,
    width: int,
    depth: int,
    heads: int,
    in_channels: int = 3,
    out_channels: int = 3,
    classes: int = 0,
    dropout: float = 0.0,
) -> nn.Module:
    """Diffusers' network with the same settings, for images of 16×16."""
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=in_channels,
        out_channels=out_channels,
        num_layers=depth,
        dropout=dropout,
        sample_size=16,
        patch_size=patch,
        num_embeds_ada_norm=classes or 1,
        norm_eps=1e-6,
    )


def agree_of_dit(ours: DiT, other: nn.Module) -> None:
    channels = ours.stem.in_channels
    x = torch.randn(2, channels, 16, 16, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 731])
    classes = torch.tensor([3, ours.classes]) if ours.classes else None
    with torch.no_grad():
        y = ours(x, label.float(), classes)
        expected = other(x, label, class_labels=torch.zeros(2, dtype=int) if classes is None else classes).sample
    assert expected.std() > 0.01
    assert relative(y, expected) < 1e-5


def test_dit_weights_converted_from_diffusers_reproduce_its_outputs() -> None:
    settings = DITS["classes"]
    other, ours = randomised(their_dit(**settings)), DiT(**settings).eval()
    with pytest.raises(UserError, match=r"transformer_blocks\.1\.norm1\.emb.*differs from the first block's"):
        from_diffusers(other.state_dict())
    for block in other.transformer_blocks:
        block.norm1.emb.load_state_dict(other.transformer_blocks[0].norm1.emb.state_dict())
    ours.load_state_dict(from_diffusers(other.state_dict()))
    agree_of_dit(ours, other)


@pytest.mark.parametrize("name", DITS)
def test_dit_weights_converted_to_diffusers_reproduce_our_outputs(name: str) -> None:
    ours, other = randomised(DiT(**DITS[name])), their_dit(**DITS[name]).eval()
    other.load_state_dict(to_diffusers(ours.state_dict()))
    agree_of_dit(ours, other)


def test_weights_of_another_architecture_are_named_in_the_error() -> None:
    with pytest.raises(KeyError, match=r"add_embedding\.weight"):
        from_diffusers({"add_embedding.weight": torch.zeros(1)})
    with pytest.raises(KeyError, match=r"bottleneck\.conv1\.weight"):
        to_diffusers({"bottleneck.conv1.weight": torch.zeros(1)})
