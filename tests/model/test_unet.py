"""The DDPM U-Net: its output at initialisation, its connections, and its 2× upsampling."""

import copy
import hashlib
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion.errors import UserError
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


def test_a_zero_class_embedding_does_not_change_the_output() -> None:
    plain, (x, label) = randomised(small()), images()
    conditional = small(classes=3).eval()
    missing, unexpected = conditional.load_state_dict(plain.state_dict(), strict=False)
    assert (missing, unexpected) == (["time.classes.weight"], [])
    assert conditional.time.classes.weight.shape == (4, 64)
    nn.init.zeros_(conditional.time.classes.weight)
    assert torch.equal(conditional(x, label, torch.tensor([0, 2])), plain(x, label))
    assert torch.equal(conditional(x, label), plain(x, label))


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


def test_a_residual_block_equals_its_shortcut_at_initialisation() -> None:
    network = small()
    block = network.encoder["stage1_block0"]
    x, emb = torch.randn(2, 16, 4, 4), network.time(torch.tensor([3.0, 7.0]))
    torch.testing.assert_close(block(x, emb), block.shortcut(x), rtol=0, atol=0)


def test_the_time_label_changes_the_output_and_may_be_fractional() -> None:
    network, (x, _) = randomised(small()), images(1)
    at = [network(x, torch.tensor([label])) for label in (10.0, 10.5, 11.0)]
    assert (at[0] - at[1]).abs().max() > 1e-4
    assert (at[1] - at[2]).abs().max() > 1e-4


@pytest.mark.parametrize("block", ["encoder.stage0_block0", "middle.0", "decoder.stage1_block1"])
def test_the_time_affects_each_block(block: str) -> None:
    network, (x, label) = randomised(small()), images()
    before = network(x, label)
    nn.init.zeros_(network.get_submodule(block).time.weight)
    assert (network(x, label) - before).abs().max() > 1e-4


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


def test_group_norm_without_gradients_is_that_of_torch() -> None:
    x, norm = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16(), GroupNorm(8, 32)
    with torch.no_grad(), Kernels() as kernels:
        assert torch.equal(norm(x), nn.GroupNorm.forward(norm, x))
    assert {dtype for name, dtype in kernels.ran if name == "native_group_norm"} == {torch.bfloat16}


def test_dropout_is_active_only_in_training() -> None:
    network, (x, label) = randomised(small(dropout=0.5)), images()
    assert torch.equal(network(x, label), network(x, label))
    network.train()
    assert not torch.equal(network(x, label), network(x, label))


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


def test_image_sizes_must_be_multiples_of_downsampling() -> None:
    network = small(channels=(16, 16, 16), attention=(False,) * 3)
    assert network.downsampling == 4
    y = network(*images(height=4, width=8))
    assert y.shape[2:] == (4, 8)
    with pytest.raises(UserError, match=r"images of 6×8 pixels, but UNet needs .* multiples of 4, such as 8×8"):
        network(*images(height=6, width=8))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"channels": (), "attention": ()}, "model.channels is empty"),
        ({"attention": (True,)}, "model.attention has 1 entries and model.channels 2"),
        ({"channels": (16, 20)}, "model.channels has 20, not a multiple of model.groups=8"),
        ({"channels": (17, 34), "groups": 17}, "model.channels starts with 17: the first width must be even"),
        (
            {"channels": (2, 4), "groups": 2},
            "model.channels starts with 2: the first width must be even and at least 4",
        ),
        ({"head_dim": 12}, "model.channels has 32 for a level with attention, not a multiple of model.head_dim=12"),
    ],
)
def test_invalid_arguments_are_named_in_the_error(changes: dict[str, object], found: str) -> None:
    with pytest.raises(UserError) as error:
        small(**changes)
    assert found in str(error.value)
