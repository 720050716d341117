"""Shared by all networks: channels and sizes of images, classes, precision, activation checkpointing, compilation."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from diffusion.errors import UserError
from diffusion.model import ADMUNet, DiT, EDM2UNet, JiT, MemoirUNet, UNet
from diffusion.model.dropout import examples
from diffusion.model.network import Network
from tests.support.networks import randomised

SMALL: dict[type[Network], dict[str, object]] = {
    ADMUNet: {"channels": (8, 16), "attention": (False, True), "blocks": 1, "groups": 4, "head_dim": 8, "dropout": 0.0},
    DiT: {"patch": 2, "width": 16, "depth": 2, "heads": 2},
    EDM2UNet: {"channels": (8, 16), "attention": (False, True), "blocks": 1, "head_dim": 8},
    JiT: {"patch": 2, "bottleneck": 8, "width": 16, "depth": 2, "heads": 2},
    MemoirUNet: {"channels": (8, 16), "bottleneck": 24, "features": 32},
    UNet: {"channels": (8, 16), "attention": (False, True), "blocks": 1, "groups": 4},
}
EVERY = pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.__name__)


def build(kind: type[Network], **settings: object) -> Network:
    """A small network with random weights, including the zero-initialized ones."""
    torch.manual_seed(0)
    return randomised(kind(**SMALL[kind] | settings))  # type: ignore[arg-type, return-value]


def images(n: int = 3, channels: int = 3, height: int = 8, width: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, channels, height, width, generator=generator), torch.linspace(3, 700, n)


@EVERY
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(8, 16), (16, 8)])
def test_any_channels_and_aspect_ratio_can_be_used(kind: type[Network], channels: int, height: int, width: int) -> None:
    x, label = images(channels=channels, height=height, width=width)
    for out_channels in (channels, 2 * channels):
        y = build(kind, in_channels=channels, out_channels=out_channels)(x, label)
        assert y.shape == (3, out_channels, height, width)
        assert y.std() > 1e-3


@EVERY
def test_examples_do_not_influence_each_other(kind: type[Network]) -> None:
    network, (x, label) = build(kind, classes=4).double(), images()
    x, classes = x.double(), torch.tensor([0, 3, 4])
    expected = torch.cat([network(x[i : i + 1], label[i : i + 1], classes[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, label, classes), expected)


@EVERY
def test_classes_give_different_outputs_and_no_class_has_the_last_index(kind: type[Network]) -> None:
    network, (x, label) = build(kind, classes=4), images(1)
    assert network.classes == 4
    outputs = [network(x, label, torch.tensor([k])) for k in range(5)]
    for i in range(5):
        assert all((outputs[i] - outputs[j]).abs().max() > 1e-4 for j in range(i))
    assert torch.equal(network(x, label), outputs[4])


@EVERY
def test_the_gradient_reaches_every_parameter(kind: type[Network]) -> None:
    network, (x, label) = build(kind, classes=2).train(), images()
    network(x, label, torch.tensor([0, 1, 2])).square().sum().backward()
    unreached = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unreached == []


@EVERY
@pytest.mark.parametrize(("height", "width"), [(8, 7), (9, 8)])
def test_unsupported_image_sizes_give_a_one_line_error(kind: type[Network], height: int, width: int) -> None:
    network, (x, label) = build(kind), images(height=height, width=width)
    d = network.downsampling
    with pytest.raises(UserError) as error:
        network(x, label)
    assert f"images of {height}×{width} pixels" in str(error.value)
    assert f"multiples of {d}, such as {8 if d < 9 else d}×" in str(error.value)


@EVERY
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_gives_nearly_the_same_output(kind: type[Network], autocast: bool) -> None:
    network, (x, label) = build(kind), images()
    with torch.no_grad():
        expected = network(x, label)
        if autocast:
            with torch.autocast("cpu", torch.bfloat16):
                y = network(x, label)
        else:
            y = network.to(torch.bfloat16)(x.to(torch.bfloat16), label)
            assert y.dtype == torch.bfloat16
    assert (y.float() - expected).norm() < 0.05 * expected.norm()


def gradients(kind: type[Network], **settings: object) -> tuple[Tensor, list[Tensor]]:
    """The output and gradients of a training step; the backward pass runs outside the context `examples`."""
    network, (x, label) = build(kind, classes=2, **settings).train(), images()
    x.requires_grad_()
    torch.manual_seed(2)
    with examples(torch.tensor([5, 900, 3])):
        y = network(x, label, torch.tensor([0, 1, 2]))
    y.square().sum().backward()
    return y, [x.grad, *(p.grad for p in network.parameters())]  # type: ignore[list-item]


@EVERY
def test_activation_checkpointing_gives_bit_identical_gradients(kind: type[Network]) -> None:
    dropout = {} if kind is MemoirUNet else {"dropout": 0.3}
    y, expected = gradients(kind, **dropout)
    again, found = gradients(kind, **dropout, checkpointing=True)
    assert torch.equal(y, again)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    if dropout:
        assert not torch.equal(y, gradients(kind)[0])


def kept(network: nn.Module, x: Tensor, label: Tensor) -> int:
    """The bytes kept for the backward pass, without the weights."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y = network(x, label)
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    assert y.requires_grad
    return sum(size for place, size in storages.items() if place not in weights)


@EVERY
def test_activation_checkpointing_stores_less_for_the_backward_pass(kind: type[Network]) -> None:
    x, label = images(8, height=16)
    whole, inputs = (kept(build(kind, checkpointing=on).train(), x, label) for on in (False, True))
    assert inputs < 0.6 * whole


@pytest.mark.slow
@EVERY
def test_every_network_compiles_to_one_graph(kind: type[Network]) -> None:
    network, (x, label) = build(kind, classes=2, checkpointing=True).train(), images()
    classes = torch.tensor([0, 1, 2])
    expected = network(x, label, classes)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    y = compiled(x, label, classes)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
