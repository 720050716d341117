"""Our networks equal those of diffusers: weights convert both ways and the outputs agree."""

from typing import Any

import pytest
import torch
from torch import nn

from diffusion.checkpoint.diffusers_folder import network_of
from diffusion.errors import UserError
from diffusion.model import ADMUNet, DiT, UNet
from diffusion.model.diffusers import from_diffusers, to_diffusers
from diffusion.model.network import Network

pytest.importorskip("diffusers")

NETWORKS: dict[str, tuple[type[Network], dict[str, Any]]] = {
    "unet_small": (UNet, {"channels": (16, 32, 64, 64), "attention": (False, False, True, False), "groups": 8}),
    "one block": (
        UNet, {"channels": (16, 24, 32, 48), "attention": (False, False, True, True), "blocks": 1, "groups": 8},
    ),
    "classes": (UNet, {"channels": (16, 32), "attention": (False, True), "groups": 8, "classes": 5}),
    "heads": (UNet, {"channels": (16, 32), "attention": (True, True), "groups": 4, "head_dim": 8, "out_channels": 6}),
    "unet_adm": (
        ADMUNet,
        {"channels": (16, 32, 48), "attention": (False, True, True), "groups": 8, "head_dim": 8, "classes": 5},
    ),
    "unet_adm, one head": (
        ADMUNet, {"channels": (16, 24, 32), "attention": (True, False, False), "blocks": 1, "groups": 8},
    ),
    "dit": (DiT, {"in_channels": 1, "out_channels": 2, "patch": 4, "width": 48, "depth": 3, "heads": 3}),
    "dit with classes": (DiT, {"patch": 2, "width": 32, "depth": 2, "heads": 4, "classes": 5, "dropout": 0.1}),
}  # fmt: skip


def randomised(network: nn.Module) -> nn.Module:
    """`network` in evaluation mode with all weights random, so every path has an effect."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + 0.5 * (parameter == 1))
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_converted_weights_give_the_same_outputs_in_diffusers_and_convert_back(name: str) -> None:
    kind, settings = NETWORKS[name]
    ours = randomised(kind(**settings))
    theirs = network_of(ours, settings, 16).eval()
    theirs.load_state_dict(to_diffusers(ours.state_dict()))
    for width in (16,) if kind is DiT else (16, 32):
        x = torch.randn(2, settings.get("in_channels", 3), 16, width, generator=torch.Generator().manual_seed(1))
        label, classes = torch.tensor([0, 731]), torch.tensor([3, settings.get("classes", 0)])
        given = classes if settings.get("classes") else None
        other = classes * 0 if kind is DiT and given is None else given
        with torch.no_grad():
            y, expected = ours(x, label.float(), given), theirs(x, label, class_labels=other).sample
        assert expected.std() > 0.01
        assert (y - expected).norm() / expected.norm() < 1e-5
    back = from_diffusers(theirs.state_dict())
    assert all(torch.equal(back[key], value) for key, value in ours.state_dict().items())


PUBLISHED: dict[str, tuple[type[Network], dict[str, Any], int]] = {
    "google/ddpm-cifar10-32": (
        UNet,
        {"channels": (128, 256, 256, 256), "attention": (False, True, False, False), "groups": 32},
        35_746_307,
    ),
    "guided-diffusion's 64x64_diffusion.pt, with a row for no class": (
        ADMUNet,
        {
            "channels": (192, 384, 576, 768), "attention": (False, True, True, True), "blocks": 3, "groups": 32,
            "dropout": 0.1, "head_dim": 64, "classes": 1000, "out_channels": 6,
        },
        295_904_454 + 4 * 192,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_structure_matches_published_models(name: str) -> None:
    kind, settings, parameters = PUBLISHED[name]
    with torch.device("meta"):
        ours = kind(**settings)
        theirs = network_of(ours, settings, 32)
    converted = {key: value.shape for key, value in to_diffusers(ours.state_dict()).items()}
    assert converted == {key: value.shape for key, value in theirs.state_dict().items()}
    assert sum(p.numel() for p in ours.parameters()) == parameters


def test_weights_without_a_counterpart_are_named() -> None:
    kind, settings = NETWORKS["dit with classes"]
    theirs = randomised(network_of(kind(**settings), settings, 16))  # each block has an embedding of its own
    with pytest.raises(UserError, match=r"transformer_blocks\.1\.norm1\.emb"):
        from_diffusers(theirs.state_dict())
    with pytest.raises(KeyError, match=r"add_embedding\.weight"):
        from_diffusers({"add_embedding.weight": torch.zeros(1)})
