"""The memoir's U-Net."""

import pytest
import torch
from torch import nn

from diffusion.errors import UserError
from diffusion.model import MemoirUNet


def tiny() -> MemoirUNet:
    torch.manual_seed(0)
    return MemoirUNet(channels=(8, 16), bottleneck=24, features=32)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 12)])
def test_the_output_has_the_shape_of_the_input(height: int, width: int) -> None:
    network = tiny()
    assert network.downsampling == 4
    assert network(torch.randn(2, 3, height, width), torch.tensor([0.0, 999.0])).shape == (2, 3, height, width)


def test_layer_types_and_poolings_match_the_memoir() -> None:
    network = tiny()
    kinds = {type(module).__name__ for module in network.modules()} - {"MemoirUNet", "ModuleList", "Stage"}
    assert kinds == {"Conv2d", "ConvTranspose2d", "Linear", "TimeEmbedding"}
    sizes = []
    network.bottleneck.register_forward_hook(lambda module, x, y: sizes.append((x[0].shape[2:], y.shape[2:])))
    network(torch.randn(1, 3, 16, 8), torch.zeros(1))
    assert sizes == [((4, 2), (4, 2))]  # two poolings before the bottleneck, none in it


def test_stages_are_connected_by_max_pooling() -> None:
    network, (above, below) = tiny(), ([], [])
    network.encoder[0].register_forward_hook(lambda module, x, y: above.append(y))
    network.encoder[1].register_forward_hook(lambda module, x, y: below.append(x[0]))
    network(torch.randn(1, 3, 8, 8), torch.zeros(1))
    assert torch.equal(below[0], above[0].unflatten(3, (4, 2)).unflatten(2, (4, 2)).amax(dim=(3, 5)))


@pytest.mark.parametrize("stage", ["encoder.0", "encoder.1", "bottleneck", "decoder.0", "decoder.1"])
def test_the_time_affects_each_stage(stage: str) -> None:
    network, x, label = tiny(), torch.randn(2, 3, 8, 8), torch.tensor([1.0, 500.0])
    before = network(x, label)
    nn.init.zeros_(network.get_submodule(stage).time.weight)
    assert (network(x, label) - before).abs().max() > 1e-4


def test_each_skip_connection_affects_the_output() -> None:
    network, x, label = tiny(), torch.randn(2, 3, 8, 8), torch.tensor([1.0, 500.0])
    before = network(x, label)
    for stage in network.decoder:
        kept = stage.conv1.weight.clone()
        with torch.no_grad():
            stage.conv1.weight[:, kept.shape[1] // 2 :] = 0
        assert (network(x, label) - before).abs().max() > 1e-4
        with torch.no_grad():
            stage.conv1.weight.copy_(kept)


def test_signals_keep_their_scale_at_initialisation() -> None:
    torch.manual_seed(0)
    network = MemoirUNet()
    assert 0.1 < network(torch.randn(4, 3, 16, 16), torch.linspace(0, 999, 4)).std() < 10


def test_empty_channels_are_rejected() -> None:
    with pytest.raises(UserError, match=r"model\.channels is empty"):
        MemoirUNet(channels=())
