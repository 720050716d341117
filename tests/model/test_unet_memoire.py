"""The memoir's U-Net."""

import torch

from diffusion.model import MemoirUNet


def tiny() -> MemoirUNet:
    torch.manual_seed(0)
    return MemoirUNet(channels=(8, 16), bottleneck=24, features=32)


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


def test_signals_keep_their_scale_at_initialisation() -> None:
    torch.manual_seed(0)
    network = MemoirUNet()
    assert 0.1 < network(torch.randn(4, 3, 16, 16), torch.linspace(0, 999, 4)).std() < 10
