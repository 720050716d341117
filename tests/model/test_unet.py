"""The DDPM U-Net: its output at initialisation, its connections, and its 2× upsampling."""

import copy
import hashlib
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion.model import UNet
from diffusion.model.embedding import sinusoidal
from diffusion.model.unet import GroupNorm, Upsample
from tests.support.networks import randomised


def small(**changes: object) -> UNet:
    settings = {"channels": (16, 32), "attention": (False, True), "blocks": 1, "groups": 8} | changes
    return UNet(**settings)  # type: ignore[arg-type]


def images(n: int = 2, height: int = 8, width: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, height, width, generator=generator)
    return x, torch.linspace(0, 999, n)


@pytest.mark.parametrize(("out_channels", "height", "width"), [(3, 8, 8), (6, 4, 12)])
def test_the_output_is_exactly_zero_at_initialisation(out_channels: int, height: int, width: int) -> None:
    x, label = images(height=height, width=width)
    y = small(out_channels=out_channels)(x, label)
    assert y.shape == (2, out_channels, height, width)
    assert torch.equal(y, torch.zeros_like(y))


def test_a_seed_gives_the_same_initial_weights_as_in_earlier_versions() -> None:
    """The digest is from the network before it had these arguments."""
    torch.manual_seed(0)
    weights = small().state_dict()
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in weights.values())).hexdigest()
    assert digest.startswith("7433efa3aa61d15e")
    assert list(weights)[:2] == ["time.linear1.weight", "time.linear1.bias"]
    torch.manual_seed(0)
    explicit = small(classes=0, patch=1, checkpointing=False).state_dict()
    assert all(torch.equal(explicit[name], weights[name]) for name in weights)


def test_patch_size_2_equals_a_network_on_pixel_unshuffled_images() -> None:
    settings = {"in_channels": 2, "out_channels": 4}
    network = randomised(small(**settings, patch=2))
    inner = small(in_channels=8, out_channels=16).eval()
    inner.load_state_dict(network.state_dict())
    x, label = torch.randn(2, 2, 8, 12), torch.tensor([3.0, 700.0])
    assert network.downsampling == 2 * inner.downsampling == 4
    expected = F.pixel_shuffle(inner(F.pixel_unshuffle(x, 2), label), 2)
    assert expected.shape == (2, 4, 8, 12)
    assert torch.equal(network(x, label), expected)


def test_every_skip_connection_affects_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    network, (x, label) = randomised(small()), images()
    whole, cat = network(x, label), torch.cat
    skips = 2 * 2  # on two levels: one block, and the stem or the downsampling before it

    def ablating(which: int) -> Tensor:
        seen = -1

        def without(tensors: list[Tensor], dim: int) -> Tensor:
            nonlocal seen
            if tensors[0].ndim == 4:
                seen += 1
                if seen == which:
                    tensors = [tensors[0], torch.zeros_like(tensors[1])]
            return cat(tensors, dim=dim)

        monkeypatch.setattr(torch, "cat", without)
        y = network(x, label)
        monkeypatch.setattr(torch, "cat", cat)
        assert seen == skips - 1
        return y

    for which in range(skips):
        assert (ablating(which) - whole).abs().max() > 1e-4, f"skip {which} has no effect"


def test_attention_connects_every_pair_of_pixels() -> None:
    network = randomised(small(channels=(16,), attention=(False,)))
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    network(x, torch.tensor([5.0]))[0, :, 0, 0].sum().backward()
    assert (x.grad != 0).all()  # by the middle attention: six convolutional layers do not reach this far


def test_upsampling_equals_repeat_and_convolve() -> None:
    layer, x = randomised(Upsample(8)), torch.randn(2, 8, 5, 3)
    expected = F.conv2d(
        x.repeat_interleave(2, 2).repeat_interleave(2, 3), layer.conv.weight, layer.conv.bias, padding=1
    )
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


class Kernels(TorchDispatchMode):
    """The names of the operations that run, each with the type of its first tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: set[tuple[str, torch.dtype]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if args and isinstance(args[0], Tensor):
            self.ran.add((func.overloadpacket.__name__, args[0].dtype))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_group_norm_trains_in_float32_on_bfloat16_images(
    memory_format: torch.memory_format, weights: torch.dtype
) -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(4, 32, 16, 16, generator=draws).bfloat16().contiguous(memory_format=memory_format)
    slope = torch.randn(4, 32, 16, 16, generator=draws).bfloat16()
    norm = GroupNorm(8, 32, 1e-6).to(weights)
    nn.init.normal_(norm.weight, generator=draws)
    nn.init.normal_(norm.bias, generator=draws)

    def results(function, layer: nn.GroupNorm, x: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        y = function(layer, x)
        return [y.detach(), *torch.autograd.grad(y, (x, layer.weight, layer.bias), slope.to(y.dtype))]

    double = copy.deepcopy(norm).double()
    with Kernels() as kernels:
        found = results(GroupNorm.forward, norm, x)
    theirs, exact = results(nn.GroupNorm.forward, norm, x), results(nn.GroupNorm.forward, double, x.double())
    for ours, torchs, right in zip(found, theirs, exact, strict=True):
        assert (ours.dtype, ours.stride()) == (torchs.dtype, torchs.stride())
        ours_off, torchs_off = ((each.double() - right).norm() / right.norm() for each in (ours, torchs))
        assert ours_off <= max(1.1 * torchs_off, torch.finfo(torch.float32).eps)
    assert {dtype for name, dtype in kernels.ran if name == "native_group_norm_backward"} == {torch.float32}


def test_bfloat16_distinguishes_neighbouring_time_labels() -> None:
    label = torch.tensor([997.0, 998.0, 999.0])
    waves = sinusoidal(label, 32)
    assert torch.pdist(waves).min() > 0.1
    network, (x, _) = randomised(small()).to(torch.bfloat16), images(3)
    emb = network.time(label)
    assert emb.dtype == torch.bfloat16
    assert torch.pdist(emb.float()).min() > 1e-3
    assert network(x.to(torch.bfloat16), label).dtype == torch.bfloat16


def test_sinusoids_match_a_hand_computed_example() -> None:
    waves = sinusoidal(torch.tensor([2.0]), 4)  # frequencies 1 and 1/10000
    expected = [[math.sin(2), math.sin(2e-4), math.cos(2), math.cos(2e-4)]]
    torch.testing.assert_close(waves, torch.tensor(expected))
