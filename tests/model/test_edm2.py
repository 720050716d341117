"""EDM2's U-Net: operations and blocks preserve magnitudes, before and after training."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.model import EDM2UNet
from diffusion.model.edm2 import Attention, Block, MPConv, MPFourier, mp_cat, mp_sum


def small(**changes: object) -> EDM2UNet:
    torch.manual_seed(0)
    settings = {"channels": (32, 48, 64), "attention": (False, True, True), "blocks": 1, "head_dim": 16} | changes
    return EDM2UNet(**settings)  # type: ignore[arg-type]


def images(n: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 16, 16, generator=generator), torch.linspace(-1.5, 1, n)


def rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_mp_sum_is_the_weighted_sum_with_magnitude_one(t: float) -> None:
    a, b = normal(2, 500_000).unbind()
    y = mp_sum(a, b, t)
    torch.testing.assert_close(y, ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2))
    assert rms(y) == pytest.approx(1, abs=0.003)


@pytest.mark.parametrize("t", [0.3, 0.5])
@pytest.mark.parametrize(("n_a", "n_b"), [(8, 8), (12, 4)])
def test_mp_cat_preserves_the_magnitude_and_weights_its_inputs_by_t(n_a: int, n_b: int, t: float) -> None:
    x = normal(1000, n_a + n_b, 16)
    y = mp_cat(x[:, :n_a], x[:, n_a:], t)
    assert y.shape == x.shape
    assert rms(y) == pytest.approx(1, abs=0.005)
    of_a, of_b = (float(part.square().sum()) for part in y.split([n_a, n_b], dim=1))
    assert of_a / of_b == pytest.approx(((1 - t) / t) ** 2, rel=0.02)


def test_fourier_features_have_magnitude_one_and_the_given_bandwidth() -> None:
    torch.manual_seed(0)
    fourier = MPFourier(200_000, 1.5)
    waves = fourier(torch.tensor([-1.0, 0.0, 0.4, 1.0]))
    torch.testing.assert_close(waves.square().mean(dim=1).sqrt(), torch.ones(4), rtol=0, atol=0.01)
    assert float(fourier.frequencies.std()) == pytest.approx(2 * math.pi * 1.5, rel=0.01)
    expected = math.exp(-((2 * math.pi * 1.5 * 0.1) ** 2) / 2)  # E[cos(0.1 f)] of a normal f
    assert float((fourier(torch.tensor([0.3])) * fourier(torch.tensor([0.4]))).mean()) == pytest.approx(
        expected, abs=0.01
    )


def test_attention_normalises_queries_keys_and_values() -> None:
    torch.manual_seed(0)
    layer, x = Attention(8, 4), torch.randn(2, 8, 2, 3)
    q, k, v = (part.unflatten(1, (2, 4)) for part in layer.qkv(x).flatten(2).chunk(3, dim=1))  # (B, heads, 4, HW)
    q, k, v = (part / part.square().mean(dim=2, keepdim=True).sqrt() for part in (q, k, v))
    weights = (torch.einsum("bhci,bhcj->bhij", q, k) / 2).softmax(dim=3)
    mixed = torch.einsum("bhij,bhcj->bhci", weights, v)
    torch.testing.assert_close(layer(x), layer.out(mixed.reshape(2, 8, 2, 3)), rtol=1e-4, atol=1e-5)


def convolutions(network: EDM2UNet) -> dict[str, MPConv]:
    return {name: module for name, module in network.named_modules() if isinstance(module, MPConv)}


def magnitudes(network: EDM2UNet, x: Tensor, label: Tensor) -> dict[str, float]:
    """The magnitudes of the outputs of the stem and of each block."""
    found: dict[str, float] = {}
    hooks = [
        module.register_forward_hook(lambda m, inputs, y, name=name: found.update({name: rms(y)}))
        for name, module in network.named_modules()
        if isinstance(module, Block) or name == "stem"
    ]
    with torch.no_grad():
        network(x, label)
    for hook in hooks:
        hook.remove()
    return found


def train(network: EDM2UNet, steps: int, rate: float) -> None:
    """Train with Adam toward a target that depends on the whole input."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.99))
    network.train()
    for i in range(steps):
        x, label = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(i)), torch.linspace(-1.5, 1, 4)
        target = F.avg_pool2d(x, 3, stride=1, padding=1) * 3
        optimizer.zero_grad()
        (network(x, label) - target).square().mean().backward()
        optimizer.step()
    network.eval()


@pytest.mark.slow
def test_every_block_preserves_the_magnitude_at_initialisation_and_after_training() -> None:
    network = small()
    before = magnitudes(network, *images())
    assert len(before) == 16
    assert all(0.75 < size < 1.25 for size in before.values()), before
    weights = {name: conv.weight.detach().clone() for name, conv in convolutions(network).items()}
    train(network, 30, 0.02)
    after = magnitudes(network, *images())
    assert all(0.5 < size < 2 for size in after.values()), after
    moved = [rms(conv.weight - weights[name]) for name, conv in convolutions(network).items()]
    assert min(moved) > 0.05  # weights have magnitude 1, so training has changed them


def test_weights_have_magnitude_one_after_a_training_step_and_do_not_change_in_evaluation() -> None:
    network, (x, label) = small(), images()
    for training, expected in ((False, 3.0), (True, 1.0)):
        with torch.no_grad():
            [conv.weight.mul_(3 / rms(conv.weight)) for conv in convolutions(network).values()]
            network.train(training)(x, label)
        assert all(rms(conv.weight) == pytest.approx(expected, abs=0.01) for conv in convolutions(network).values())


def test_weight_normalisation_is_idempotent_bit_for_bit() -> None:
    conv = MPConv(48, 64, 3, 3)
    conv.force()
    once = conv.weight.detach().clone()
    conv.force()
    assert torch.equal(conv.weight, once)
    with torch.no_grad():
        conv.weight[0] *= 1.001
    conv.force()
    assert not torch.equal(conv.weight[0], once[0] * 1.001)
    assert torch.equal(conv.weight[1:], once[1:])


def test_two_forward_passes_before_one_backward_pass_sum_their_gradients() -> None:
    def gradients(joint: bool) -> list[Tensor]:
        network, (x, label) = small().train(), images()
        nn.init.ones_(network.gain)
        losses = [lambda: network(x, label).square().mean(), lambda: network(x.flip(0), label).square().mean()]
        if joint:
            (losses[0]() + losses[1]()).backward()
        else:
            [loss().backward() for loss in losses]
        return [p.grad for p in network.parameters()]  # type: ignore[misc]

    for both, each in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(both, each)
