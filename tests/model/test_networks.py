"""Shared by all networks: images, classes, precision, checkpointing, compilation, and the sizes that are stated."""

import re

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.build import make
from diffusion.config.choices import choice, choices, conf_dir
from diffusion.errors import UserError
from diffusion.model import MLP, ADMUNet, DiT, EDM2UNet, JiT, MemoirUNet, UNet
from diffusion.model.network import Network, examples, to_channels_last
from diffusion.process.denoiser import denoiser_of
from diffusion.process.prediction import Eps
from diffusion.process.schedule import linear
from tests.support.networks import randomised

SMALL: dict[type[Network], dict[str, object]] = {
    ADMUNet: {"channels": (8, 16), "attention": (False, True), "blocks": 1, "groups": 4, "head_dim": 8, "dropout": 0.0},
    DiT: {"patch": 2, "width": 16, "depth": 2, "heads": 2},
    EDM2UNet: {"channels": (8, 16), "attention": (False, True), "blocks": 1, "head_dim": 8},
    JiT: {"patch": 2, "bottleneck": 8, "width": 16, "depth": 2, "heads": 2, "context": 3, "context_from": 1},
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
@pytest.mark.parametrize("channels", [1, 4])
def test_any_channels_and_aspect_ratio_can_be_used(kind: type[Network], channels: int) -> None:
    for height, width in ((8, 16), (16, 8)):
        x, label = images(channels=channels, height=height, width=width)
        y = build(kind, in_channels=channels, out_channels=2 * channels)(x, label)
        assert y.shape == (3, 2 * channels, height, width)
        assert y.std() > 1e-3
    if kind is not MemoirUNet:
        assert not kind(**SMALL[kind], in_channels=channels)(x, label).any()  # zero at initialisation
    with pytest.raises(UserError):
        build(kind)(*images(height=8, width=7))


@EVERY
def test_examples_and_their_classes_do_not_influence_each_other(kind: type[Network]) -> None:
    """No class is the last index."""
    network, (x, label) = build(kind, classes=4).double(), images()
    x, classes = x.double(), torch.tensor([0, 3, 4])
    together = network(x, label, classes)
    alone = torch.cat([network(x[i : i + 1], label[i : i + 1], classes[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert torch.equal(network(x, label)[2], together[2])
    assert ((network(x, label) - together)[:2].abs().amax((1, 2, 3)) > 1e-4).all()
    with pytest.raises(UserError):
        build(kind)(x.float(), label, classes)  # it has no classes


@EVERY
def test_every_network_is_given_pictures_and_vectors(kind: type[Network]) -> None:
    """As many as it was built for; zeros where they are dropped, also beside labels of the augmentation.

    The gradient reaches every parameter.
    """
    x, t, given = torch.randn(3, 3, 8, 16), torch.tensor([0.1, 0.5, 0.9]), {"picture": (4, 8, 16), "vector": (2,)}
    conditions = {name: torch.randn(3, *size) for name, size in given.items()}
    network = build(kind, in_channels=7, augment=3, classes=2).train()
    denoiser = denoiser_of(network, linear(), Eps(), picture=4, vector=2)
    y, labels = denoiser.output(x, t, **conditions)[0], torch.randn(3, 1)
    for name, rows in conditions.items():
        dropped = {**conditions, name: torch.zeros_like(rows)}
        torch.testing.assert_close(
            denoiser.output(x, t, **{**conditions, name: None})[0], denoiser.output(x, t, **dropped)[0]
        )
        assert (denoiser.output(x, t, **dropped)[0] - y).abs().amax((1, 2, 3)).min() > 1e-5
        with pytest.raises(UserError, match=f"the {name} of the condition is"):
            denoiser.output(x, t, **{**conditions, name: rows[:, :1]})
    assert not torch.equal(denoiser.output(x, t, **conditions, augment=labels)[0], y)
    augment = torch.cat([conditions["vector"], labels], dim=1)
    plain = torch.cat([x, conditions["picture"]], dim=1)
    time = 1000 * t - 1
    torch.testing.assert_close(
        denoiser.output(x, t, **conditions, augment=labels)[0], denoiser.network(plain, time, augment=augment)
    )
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in denoiser.parameters())


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


def test_the_perceptron_takes_images_of_one_size_with_any_channels_and_classes() -> None:
    network = randomised(MLP(2, 4, side=4, width=8, depth=2, classes=3)).double()
    (x, label), classes = images(channels=2, height=4, width=4), torch.tensor([0, 2, 3])
    together = network(x.double(), label, classes)
    assert together.shape == (3, 4, 4, 4)
    alone = torch.cat([network(x[i : i + 1].double(), label[i : i + 1], classes[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert torch.equal(network(x.double(), label)[2], together[2])
    together.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    assert not MLP(2)(torch.ones(3, 2, 1, 1), label).any()  # zero at initialisation


@pytest.mark.parametrize("kind", [UNet, ADMUNet])
@pytest.mark.parametrize("sides", [(32,), (4, 8, 4)])
def test_u_nets_work_on_series_and_volumes_and_train_every_weight(kind: type[Network], sides: tuple[int, ...]) -> None:
    network = build(kind, in_channels=2, out_channels=4, axes=len(sides))
    y = network(torch.randn(3, 2, *sides), images()[1])
    assert y.shape == (3, 4, *sides)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    to_channels_last(network)
    assert all(p.is_contiguous() for p in network.parameters())
    with pytest.raises(UserError, match=rf"works on {len(sides)} axes, and the data have 2, 8×16"):
        network(*images(channels=2))
    with pytest.raises(UserError, match="need 2 axes"):
        build(kind, axes=len(sides), patch=2)


@pytest.mark.parametrize("kind", [UNet, ADMUNet])
def test_u_nets_move_with_a_series(kind: type[Network]) -> None:
    """By multiples of the step of the lower level, for a bump far from the ends."""
    network, x = build(kind, axes=1).double(), torch.zeros(1, 3, 160, dtype=torch.float64)
    x[..., 76:80] = torch.randn(3, 4)
    y, moved = (network(each, torch.ones(1)) for each in (x, x.roll(6, 2)))
    torch.testing.assert_close(moved[..., 70:96], y[..., 64:90])
    assert y[..., 64:90].std() > 1e-2


def gradients(kind: type[Network], **settings: object) -> tuple[Tensor, list[Tensor], int]:
    """The output and gradients of a training step, and how many layers run.

    The backward pass runs outside the context `examples`.
    """
    network, (x, label) = build(kind, classes=2, **settings).train(), images()
    runs: list[object] = []
    for module in network.modules():
        module.register_forward_pre_hook(lambda module, given: runs.append(module))
    x.requires_grad_()
    torch.manual_seed(2)
    with examples(torch.tensor([5, 900, 3])):
        y = network(x, label, torch.tensor([0, 1, 2]))
    y.square().sum().backward()
    return y, [x.grad, *(p.grad for p in network.parameters())], len(runs)  # type: ignore[list-item]


@EVERY
def test_checkpointing_recomputes_the_blocks_with_bit_identical_gradients(kind: type[Network]) -> None:
    dropout = {} if kind is MemoirUNet else {"dropout": 0.3}
    y, expected, once = gradients(kind, **dropout)
    again, found, twice = gradients(kind, **dropout, checkpointing=True)
    assert torch.equal(y, again)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert twice > once > 0
    if dropout:
        assert not torch.equal(y, gradients(kind)[0])


@pytest.mark.slow
@EVERY
def test_every_network_compiles_to_one_graph(kind: type[Network]) -> None:
    network, (x, label) = build(kind, classes=2, checkpointing=True).train(), images()
    classes = torch.tensor([0, 1, 2])
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    y = compiled(x, label, classes)
    torch.testing.assert_close(y, network(x, label, classes))
    y.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def size(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def stated(choice: str) -> tuple[float, float, list[int]]:
    """Millions of parameters, GFLOP of a forward pass, and the size of the example, as the yaml of a network says."""
    text = (conf_dir() / f"model/{choice}.yaml").read_text("utf-8").replace("\n# ", " ")
    words = re.search(r"([\d.]+) M parameters, ([\d.]+) GFLOP per ([\d×]+)( image|-point series) forward", text)
    assert words
    return float(words[1]), float(words[2]), [int(side) for side in words[3].split("×")]


@pytest.mark.parametrize("name", choices("model"))
def test_each_choice_has_the_size_that_its_yaml_states(name: str) -> None:
    with torch.device("meta"):
        assert size(make(choice("model", name), "model")) / 1e6 == pytest.approx(stated(name)[0], abs=0.006)


@pytest.mark.parametrize(
    "name", ["dit_tiny", "edm2_tiny", "jit_tiny", "mlp", "unet1d", "unet_adm_tiny", "unet_memoire", "unet_tiny"]
)
def test_a_choice_of_each_kind_has_the_cost_that_its_yaml_states(name: str) -> None:
    _, gflop, sides = stated(name)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = make(choice("model", name), "model")
        assert network(torch.empty(2, 3, *sides), torch.empty(2)).shape == (2, 3, *sides)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gflop, abs=0.051)  # 2 per multiply-add


@pytest.mark.parametrize(("channels", "millions"), [([128, 256, 384, 512], 124.7), ([192, 384, 576, 768], 280.2)])
def test_sizes_match_those_published_of_edm2_xs_and_s(channels: list[int], millions: float) -> None:
    """With 1000 classes. (Of DiT and JiT: test_diffusers_weights, test_authors.)"""
    with torch.device("meta"):
        network = EDM2UNet(4, 4, channels=channels, classes=1000)
    assert size(network) / 1e6 == pytest.approx(millions, abs=0.05)
