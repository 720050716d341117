"""Pairings of noise and images."""

from itertools import permutations

import pytest
import torch
from networks import randomised
from torch import Tensor

from diffusion.model import DiT
from diffusion.process.denoiser import Denoiser
from diffusion.process.noise import assigned, independent, nearest
from diffusion.process.objective import Hybrid, Simple, VariationalBound
from diffusion.process.prediction import V
from diffusion.process.schedule import VP
from diffusion.process.timesteps import Uniform
from diffusion.randomness import Streams

SEEDS = range(10, 16)


def images(n: int, *shape: int, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def cost(x0: Tensor, eps: Tensor, power: int) -> float:
    return float((x0 - eps).double().flatten(1).norm(dim=1).pow(power).sum())


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_the_assigned_permutation_of_the_noises_has_the_lowest_cost(n: int, power: int) -> None:
    x0, streams = images(n, 1, 1, 2, spread=2.0), [SEEDS[i] for i in range(n)]
    drawn, found = independent(x0, Streams(streams)), assigned(x0, Streams(streams), power)
    costs = {order: cost(x0, drawn[list(order)], power) for order in permutations(range(n))}
    best = min(costs, key=lambda order: costs[order])
    assert torch.equal(found, drawn[list(best)])


def test_powers_1_and_2_minimise_different_costs() -> None:
    x0 = images(64, 1, 1, 2, spread=2.0)
    near, squared = (assigned(x0, Streams(range(64)), power) for power in (1, 2))
    assert cost(x0, near, 1) < cost(x0, squared, 1)
    assert cost(x0, squared, 2) < cost(x0, near, 2)


def test_in_one_dimension_optimal_transport_sorts_the_noises() -> None:
    x0 = images(50, 1, 1, 1)
    eps = assigned(x0, Streams(range(50)), power=2)
    assert torch.equal(x0.flatten().argsort(), eps.flatten().argsort())


def test_assignment_only_permutes_the_independent_noises() -> None:
    x0 = images(6, 3, 4, 4)
    drawn, found = independent(x0, Streams(SEEDS)), assigned(x0, Streams(SEEDS))
    assert torch.equal(*(eps.flatten(1)[eps[:, 0, 0, 0].argsort()] for eps in (drawn, found)))
    assert not torch.equal(drawn, found)


@pytest.mark.parametrize("pairing", [nearest, assigned])
def test_a_pair_does_not_depend_on_the_order_of_the_batch(pairing) -> None:  # type: ignore[no-untyped-def]
    x0, order = images(6, 3, 4, 4), [3, 1, 5, 0, 2, 4]
    found = pairing(x0, Streams(SEEDS))
    assert torch.equal(pairing(x0[order], Streams([SEEDS[i] for i in order])), found[order])


def test_nearest_chooses_the_nearest_of_its_candidates() -> None:
    x0, k = images(6, 1, 2, 2, spread=2.0), 5
    found = nearest(x0, Streams(SEEDS), k)
    drawn = Streams(SEEDS).normal(k, 1, 2, 2)
    chosen = []
    for image, candidates, eps in zip(x0, drawn, found, strict=True):
        distances = [float((image - candidate).norm()) for candidate in candidates]
        chosen.append(min(range(k), key=distances.__getitem__))
        assert torch.equal(eps, candidates[chosen[-1]])
    assert len(set(chosen)) > 1


def test_nearest_does_not_depend_on_the_batch() -> None:
    x0 = images(6, 3, 4, 4)
    assert torch.equal(nearest(x0[2:4], Streams(SEEDS[2:4])), nearest(x0, Streams(SEEDS))[2:4])


def test_nearest_of_one_candidate_equals_independent_noise() -> None:
    x0 = images(6, 3, 4, 4).double()
    assert torch.equal(nearest(x0, Streams(SEEDS), k=1), independent(x0, Streams(SEEDS)))


@pytest.mark.parametrize("pairing", [independent, nearest, assigned])
def test_an_objective_diffuses_images_with_the_chosen_noise(pairing) -> None:  # type: ignore[no-untyped-def]
    """At t = 1 of a schedule that ends in pure noise, x_t is eps. The classes stay with their images."""
    model = Denoiser(randomised(DiT(3, 3, patch=2, width=8, depth=1, heads=2, classes=3)), VP(), V())
    x0, y, seen = images(6, 3, 4, 4), torch.tensor([0, 1, 2, 2, 1, 0]), []
    model.network.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args[0], kwargs)), with_kwargs=True)
    objective = Simple(lambda schedule, streams: (torch.ones(6).double(), torch.ones(6)), noise=pairing)
    objective(model, x0, Streams(SEEDS), classes=y)["loss"].mean().backward()
    ((x_t, kwargs),) = seen
    alpha, sigma = (float(c) for c in VP()(torch.ones(1).double()))
    torch.testing.assert_close(x_t, alpha * x0 + sigma * pairing(x0, Streams(SEEDS)))
    assert torch.equal(kwargs["classes"], y)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.network.out.parameters())
    assert model.network.out.weight.grad.abs().sum() > 0


def test_the_velocity_of_the_pairs_matches_the_closed_form() -> None:
    """x0 ~ N(0, c) on a line, in large batches: sorted pairs are x0 = √c eps, so dx/dt = (1 − √c) x/(t + (1 − t)√c).

    Independent noise has a different slope, (t − (1 − t)c)/(t² + (1 − t)²c).
    """
    c, n, t = 0.25, 400, 0.5
    x0 = images(n, 1, 1, 1, spread=c**0.5)
    for pairing, expected in (
        (assigned, (1 - c**0.5) / (t + (1 - t) * c**0.5)),
        (independent, (t - (1 - t) * c) / (t**2 + (1 - t) ** 2 * c)),
    ):
        eps = pairing(x0, Streams(range(n)))
        x_t, velocity = (1 - t) * x0 + t * eps, eps - x0
        slope = float((x_t * velocity).mean() / x_t.square().mean())  # of the best linear prediction
        assert abs(slope - expected) < 0.15


def test_objectives_with_a_bound_reject_a_noise_pairing() -> None:
    for objective in (Hybrid, VariationalBound):
        with pytest.raises(TypeError, match="noise"):
            objective(Uniform(), noise=assigned)
