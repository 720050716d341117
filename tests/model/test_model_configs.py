"""Each shipped network can be built from its yaml and has the size and cost stated in the yaml's comment."""

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
    "dit_tiny": (4_177_776, 32, 4, 0.364),
    "dit_s_2": (32_471_436, 32, 2, 12.107),
    "dit_b_2": (129_528_588, 32, 2, 46.001),
    "dit_l_2": (456_791_052, 32, 2, 161.383),
    "edm2_tiny": (2_329_589, 32, 8, 0.514),
    "edm2_xxs": (24_129_501, 64, 8, 17.917),
    "edm2_xs": (124_198_821, 64, 8, 89.883),
    "edm2_s": (279_441_253, 64, 8, 201.608),
    "jit_tiny": (4_181_040, 32, 4, 0.364),
    "jit_s_4": (32_525_616, 64, 4, 12.126),
    "jit_b_4": (129_684_528, 64, 4, 46.064),
    "jit_l_4": (456_989_712, 64, 4, 161.440),
    "unet_memoire": (8_141_763, 64, 8, 4.597),
    "unet_tiny": (2_103_011, 32, 8, 0.387),
    "unet_small": (6_338_499, 64, 8, 4.165),
    "unet_base": (35_746_307, 64, 8, 43.218),
    "unet_adm_tiny": (2_520_595, 32, 8, 0.468),
    "unet_adm_small": (25_117_699, 64, 8, 16.472),
    "unet_adm": (295_131_267, 64, 8, 208.366),
}


def yaml(name: str) -> Path:
    return conf_dir() / "model" / f"{name}.yaml"


def build(name: str, **changes: object) -> nn.Module:
    return instantiate(OmegaConf.merge(OmegaConf.load(yaml(name)), changes))


def test_every_network_config_is_in_the_table() -> None:
    assert {path.stem for path in yaml("x").parent.glob("*.yaml")} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_parameters_downsampling_and_flops_match_the_table(name: str) -> None:
    parameters, side, downsampling, gflop = SHIPPED[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build(name)
        y = network(torch.empty(2, 3, side, side), torch.empty(2))
    assert y.shape == (2, 3, side, side)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.downsampling == downsampling
    assert counter.get_total_flops() / 2e9 == pytest.approx(gflop, abs=0.005)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_yaml_comment_states_parameters_and_flops(name: str) -> None:
    parameters, side, _, gflop = SHIPPED[name]
    text = yaml(name).read_text().replace("\n# ", " ")
    stated = re.search(r"([\d.]+) M parameters, ([\d.]+) GFLOP per (\d+)×\3 image forward", text)
    assert stated, f"{yaml(name)} states no size"
    assert float(stated[1]) == round(parameters / 1e6, 2)
    assert float(stated[2]) == round(gflop, 1)
    assert int(stated[3]) == side
