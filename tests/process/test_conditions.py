"""Class labels are passed by keyword through the denoiser, the objectives and every sampler to the network."""

import pytest
import torch
from networks import randomised
from sampler_cases import ALL, FINE
from torch import Tensor, nn

from diffusion.model import DiT
from diffusion.process.denoiser import Conditioned, Denoiser, clip
from diffusion.process.objective import Simple, Uncertainty
from diffusion.process.prediction import V
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import VP, linear
from diffusion.process.timesteps import Uniform
from diffusion.randomness import Streams

SHAPE = (2, 4, 4)
Y = torch.tensor([0, 1, 2, 2])


def denoiser() -> Denoiser:
    network = DiT(2, 2, patch=2, width=8, depth=1, heads=2, classes=3)
    return Denoiser(randomised(network), VP(), V())


def test_an_estimate_depends_on_the_class() -> None:
    model, x, t = denoiser(), torch.ones(4, *SHAPE), torch.full((4,), 0.5).double()
    estimate, swapped = model(x, t, classes=Y), model(x, t, classes=Y.flip(0))
    assert not torch.allclose(estimate.x0[0], estimate.x0[1])
    torch.testing.assert_close(estimate.x0, swapped.x0.flip(0))
    assert torch.equal(Conditioned(model, classes=Y)(x, t).eps, estimate.eps)
    # Without a class, the network's own "no class" is used.
    assert torch.equal(model(x, t).x0, model(x, t, classes=torch.full((4,), 3)).x0)


@pytest.mark.parametrize(
    "objective", [Simple(Uniform()), Uncertainty(Simple(Uniform()))], ids=["simple", "uncertainty"]
)
def test_an_objective_trains_the_class_embeddings(objective: Simple) -> None:
    model, x0 = denoiser(), torch.ones(4, *SHAPE)

    def loss(**conditions: Tensor) -> Tensor:
        return objective(model, x0, Streams.of(4, "train", 0), **conditions)["loss"]

    assert not torch.allclose(loss(classes=Y), loss())
    loss(classes=Y)[:3].sum().backward()
    rows = model.network.time.classes.weight.grad.abs().sum(dim=1)
    assert (rows > 0).tolist() == [True, True, True, False]


@pytest.mark.parametrize("name", ALL)
def test_a_sampler_passes_the_classes_at_every_evaluation(name: str) -> None:
    """So an image depends on its own class and not on the rest of its batch."""
    model, seen = denoiser().double(), []
    model.network.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)

    def images(chosen: slice) -> Tensor:
        streams = Streams(range(4)[chosen])
        sampler = ALL[name][0](3, grid=FINE, threshold=clip)
        made = sampler(model, streams.normal(*SHAPE, dtype=torch.float64), streams, classes=Y[chosen])
        assert len(seen) == sampler.evaluations
        assert all(torch.equal(kwargs["classes"], Y[chosen]) for kwargs in seen)
        seen.clear()
        return made

    whole = images(slice(0, 4))
    torch.testing.assert_close(torch.cat([images(slice(0, 1)), images(slice(1, 4))]), whole, rtol=1e-6, atol=1e-6)


def test_without_conditions_the_network_is_called_with_x_and_label_only() -> None:
    class Plain(torch.nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return 0.5 * x

    streams = Streams([0])
    assert DDIM(2)(Denoiser(Plain(), linear(), V()), streams.normal(*SHAPE), streams).shape == (1, *SHAPE)


def test_the_time_label_is_exact_for_images_in_half_precision() -> None:
    given = []

    def network(x: Tensor, label: Tensor) -> Tensor:
        given.extend(label.tolist())
        return x

    model = Denoiser(nn.Identity(), linear(), V())
    model.network.forward = network  # type: ignore[method-assign]
    steps = torch.arange(1, 1001)
    model.output(torch.zeros(1000, *SHAPE, dtype=torch.bfloat16), steps.double() / 1000)
    assert given == list(range(1000))
