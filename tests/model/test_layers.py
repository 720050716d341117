"""The layers of the networks against their formulas. (The whole networks against their authors': test_authors.)"""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.model import ADMUNet, DiT, JiT, MemoirUNet, UNet
from diffusion.model.transformer import rotations
from diffusion.model.unet import GroupNorm, Upsample
from tests.support.networks import randomised

CPU = torch.device("cpu")


def test_a_seed_gives_the_same_initial_weights_as_ever() -> None:
    torch.manual_seed(0)
    network = UNet(channels=(16, 32), attention=(False, True), blocks=1, groups=8)
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())).hexdigest()
    assert digest.startswith("7433efa3aa61d15e")


def test_patch_size_2_equals_a_network_on_pixel_unshuffled_images() -> None:
    settings = {"channels": (16, 32), "attention": (False, True), "blocks": 1, "groups": 8}
    network = randomised(UNet(2, 4, **settings, patch=2))
    inner = UNet(8, 16, **settings).eval()
    inner.load_state_dict(network.state_dict())
    x, label = torch.randn(2, 2, 8, 12), torch.tensor([3.0, 700.0])
    assert torch.equal(network(x, label), F.pixel_shuffle(inner(F.pixel_unshuffle(x, 2), label), 2))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_upsampling_equals_repeat_and_convolve(axes: int) -> None:
    layer, x = randomised(Upsample(8, axes)), torch.randn(2, 8, *(5, 3, 4)[:axes])
    torch.testing.assert_close(layer(x), layer.conv(repeated(x)), rtol=1e-5, atol=1e-5)


def test_group_norm_trains_in_float32_on_bfloat16_images() -> None:
    """Its gradients have the rounding of bfloat16 once, at the end."""
    x = torch.randn(4, 32, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    norm = randomised(GroupNorm(8, 32, 1e-6))

    def gradient(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(norm(x).square().sum(), x)[0]

    torch.testing.assert_close(norm(x), norm(x.float()).bfloat16(), rtol=0, atol=0)
    assert (gradient(x).float() - gradient(x.float())).norm() < 0.01 * gradient(x.float()).norm()


def repeated(x: Tensor) -> Tensor:
    for axis in range(2, x.ndim):
        x = x.repeat_interleave(2, axis)
    return x


def test_adms_blocks_begin_as_their_shortcuts() -> None:
    network = ADMUNet(channels=(16, 32), attention=(False, True), blocks=1, groups=8, head_dim=16)
    h, emb = torch.randn(2, 16, 4, 4), torch.randn(2, 64)
    assert torch.equal(network.encoder["stage0_down"](h, emb), F.avg_pool2d(h, 2))
    block = network.encoder["stage1_block0"]
    assert torch.equal(block(h, emb), block.shortcut(h))


def test_blocks_of_transformers_begin_as_the_identity() -> None:
    h, emb, turns = torch.randn(2, 16, 16), torch.randn(2, 16), rotations(4, 4, 8, CPU)
    for network, where in ((DiT(width=16, depth=2, heads=2, augment=9), ()), (JiT(width=16, depth=2, heads=2), turns)):
        assert all(torch.equal(block(h, emb, *where), h) for block in network.blocks)
        assert float(network.time.linear1.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_the_memoirs_layers_and_max_poolings() -> None:
    network, above, below = MemoirUNet(channels=(8, 16), bottleneck=24, features=32), [], []
    kinds = {type(module).__name__ for module in network.modules()} - {"MemoirUNet", "ModuleList", "Stage"}
    assert kinds == {"Conv2d", "ConvTranspose2d", "Linear", "TimeEmbedding"}
    network.encoder[1].register_forward_hook(lambda module, x, y: above.append(y))
    network.bottleneck.register_forward_hook(lambda module, x, y: below.append(x[0]))
    network(torch.randn(1, 3, 16, 8), torch.zeros(1))
    assert torch.equal(below[0], above[0].unflatten(3, (2, 2)).unflatten(2, (4, 2)).amax(dim=(3, 5)))


@pytest.mark.parametrize(
    "build",
    [
        lambda: UNet(channels=()),
        lambda: UNet(channels=(16, 32), groups=8),  # four flags of attention
        lambda: UNet(channels=(20,), attention=(False,), groups=8),
        lambda: UNet(channels=(24, 32), attention=(True, True), groups=8, head_dim=16),
        lambda: DiT(width=20, heads=3),
        lambda: JiT(width=20, heads=2),
    ],
)
def test_inconsistent_arguments_are_refused(build) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError):
        build()
    assert isinstance(UNet(channels=(24, 32), attention=(False, True), groups=8, head_dim=16), nn.Module)
