"""Each shipped network can be built from its yaml and has the size and cost that the yaml's comment states."""

import re
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.choices import conf_dir

#                parameters  image  down-sampling  GFLOP per image forward (2 per multiply-add)
SHIPPED = {
    "unet_memoire": (8_141_763, 64, 8, 4.597),
    "unet_tiny": (2_103_011, 32, 8, 0.387),
    "unet_small": (6_338_499, 64, 8, 4.165),
    "unet_base": (35_746_307, 64, 8, 43.218),
}


def yaml(name: str) -> Path:
    return conf_dir() / "model" / f"{name}.yaml"


def build(name: str, **changes: object) -> nn.Module:
    return instantiate(OmegaConf.merge(OmegaConf.load(yaml(name)), changes))


def test_every_network_is_listed() -> None:
    assert {path.stem for path in yaml("x").parent.glob("*.yaml")} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_size_and_cost(name: str) -> None:
    parameters, side, downsampling, gflop = SHIPPED[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build(name)
        y = network(torch.empty(2, 3, side, side), torch.empty(2))
    assert y.shape == (2, 3, side, side)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.downsampling == downsampling
    assert counter.get_total_flops() / 2e9 == pytest.approx(gflop, abs=0.005)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_comment_states_size_and_cost(name: str) -> None:
    parameters, side, _, gflop = SHIPPED[name]
    stated = re.search(r"([\d.]+) M parameters, ([\d.]+) GFLOP per (\d+)×\3 image forward", yaml(name).read_text())
    assert stated, f"{yaml(name)} states no size"
    assert float(stated[1]) == round(parameters / 1e6, 2)
    assert float(stated[2]) == round(gflop, 1)
    assert int(stated[3]) == side


@pytest.mark.parametrize("name", ["unet_memoire", "unet_tiny", "unet_small"])
def test_a_state_dict_restores_the_network_also_at_half_the_image_size(name: str) -> None:
    side = SHIPPED[name][1] // 2
    x, label = torch.randn(1, 3, side, side), torch.tensor([500.0])
    with torch.no_grad():
        trained, restored = build(name).eval(), build(name).eval()
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        assert not torch.equal(trained(x, label), restored(x, label))
        restored.load_state_dict(trained.state_dict())
        assert torch.equal(trained(x, label), restored(x, label))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_channels_can_be_overridden(name: str) -> None:
    with torch.device("meta"):
        network = build(name, in_channels=1, out_channels=2)
        assert network(torch.empty(1, 1, 32, 32), torch.empty(1)).shape == (1, 2, 32, 32)
