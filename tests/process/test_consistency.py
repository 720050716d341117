"""Consistency tuning: its loss against closed forms, and samples drawn in one and two steps."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import Tensor, nn

from diffusion.model.dropout import Dropout, examples
from diffusion.process import grid, prediction, schedule
from diffusion.process.consistency import Consistency, pseudo_huber, squared
from diffusion.process.denoiser import Denoiser, Estimate, diffuse
from diffusion.process.objective import Uncertainty
from diffusion.process.oracle import MixtureOracle
from diffusion.process.sampler import DDIM, Sampler
from diffusion.process.sampler import Consistency as ConsistencySampler
from diffusion.process.timesteps import LogNormal
from diffusion.randomness import Streams

EDM = schedule.EDM()
GAUSSIAN = torch.tensor([1.0]), torch.tensor([0.3]), torch.tensor([0.25])  # weights, means, variances
MIXTURE = torch.tensor([0.3, 0.7]), torch.tensor([-0.7, 0.6]), torch.tensor([0.04, 0.09])
SCHEDULES = {
    "edm": (EDM, prediction.EDM()),
    "vp": (schedule.VP(), prediction.Eps()),
    "linear": (schedule.linear(), prediction.Eps()),
    "cosine": (schedule.cosine(), prediction.V()),
    "zero_snr": (schedule.zero_terminal_snr(schedule.linear()), prediction.V()),
    "ve": (schedule.VE(), prediction.EDM()),
    "flow": (schedule.Flow(), prediction.Velocity()),
    "cosine_continuous": (schedule.ContinuousCosine(), prediction.V()),
}


class Affine(nn.Module):
    """A network with two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.4, 0.1]))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.weight[0] * x + self.weight[1]


class Exact:
    """The consistency function of a mixture on a line, plus `shift`; with `mean`, E[x0 | x_t] instead.

    The probability flow on a line keeps the order of points, so f(x, t) is the x0 with P(x0) = P_t(x).
    """

    def __init__(self, data: tuple[Tensor, Tensor, Tensor], mean: bool = False):
        self.weights, self.means, self.variances = (v.double() for v in data)
        self.schedule, self.prediction, self.mean = EDM, prediction.EDM(), mean
        self.oracle = MixtureOracle(EDM, self.weights, self.means[:, None], self.variances[:, None, None])
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def share_below(self, x: Tensor, level: Tensor) -> Tensor:
        z = (x[:, None] - self.means) / torch.sqrt(self.variances + level[:, None] ** 2)
        return torch.as_tensor(ndtr(z.numpy())) @ self.weights

    def __call__(self, x_t: Tensor, t: Tensor, **conditions: Any) -> Estimate:
        if self.mean:
            return Estimate(self.oracle(x_t, t).x0 + self.shift, x_t)
        x, level = x_t.flatten(), EDM.sigma_max * t
        wanted = self.share_below(x, level)
        low, high = torch.full_like(x, -20), torch.full_like(x, 20)
        for _ in range(70):
            middle = (low + high) / 2
            below = self.share_below(middle, torch.zeros_like(level)) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return Estimate(low.reshape(x_t.shape) + self.shift, x_t)

    def pairs(self, x: float, level: float) -> tuple[Tensor, Tensor, Tensor]:
        """x0 and eps (B,) with x0 + level·eps = x, and their probabilities given x, by Gauss–Hermite quadrature."""
        nodes, shares = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(40))
        total = self.variances + level**2
        share = (self.weights.log() - (x - self.means) ** 2 / (2 * total) - total.log() / 2).softmax(0)
        mean = self.means + self.variances / total * (x - self.means)
        x0 = mean[:, None] + (self.variances * level**2 / total).sqrt()[:, None] * nodes
        probability = share[:, None] * shares / math.sqrt(2 * math.pi)
        return x0.flatten(), (x - x0.flatten()) / level, probability.flatten()


def objective(noise: Tensor, level: float, stage: int, **settings: Any) -> Consistency:
    """The objective with these noises (B,) at one noise level and stage; each stage halves the step t − r."""
    t = torch.full((len(noise),), level / EDM.sigma_max, dtype=torch.float64)
    made = Consistency(
        lambda schedule, streams: (t, torch.ones_like(t)),
        lambda x0, streams: noise.reshape(x0.shape),
        **{"distance": squared, "stages": 20, "k": 0.0, **settings},
    )
    made.begin(stage - 1, 20)
    return made


def pull(model: Exact, x: float, level: float, stage: int) -> float:
    """The gradient of the loss at one x_t with respect to f(x_t, t): 2 E[f(x_t, t) − f(x_r, r) | x_t]/(t − r)."""
    x0, eps, probability = model.pairs(x, level)
    loss = objective(eps, level, stage)(model, x0.reshape(-1, 1, 1, 1), Streams([]))["loss"]  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad((probability * loss).sum(), model.shift)
    return float(gradient)


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(("x", "level"), [(0.4, 0.5), (-1.0, 2.0)])
def test_the_consistency_function_is_a_fixed_point_as_r_rises_to_t(data, x, level) -> None:  # type: ignore[no-untyped-def]
    """The pull of the loss there, ∝ t − r, halves at each stage. On the denoiser's mean it does not vanish."""
    exact = [abs(pull(Exact(data), x, level, stage)) for stage in (7, 8, 9)]
    assert exact[0] / exact[1] == pytest.approx(2, abs=0.05)
    assert exact[1] / exact[2] == pytest.approx(2, abs=0.03)
    mean = abs(pull(Exact(data, mean=True), x, level, 9))
    assert mean > 20 * exact[2]
    assert mean == pytest.approx(abs(pull(Exact(data, mean=True), x, level, 8)), rel=0.05)


def test_the_loss_gradient_on_a_gaussian_matches_the_closed_form() -> None:
    """For N(m, v): 2 √v (x − m)/√A (1 − (v + r t)/√(A B))/(t − r), with A = v + t² and B = v + r²."""
    (_, (m,), (v,)), x, t = GAUSSIAN, 0.9, 0.8
    for stage in (1, 2, 5):
        r = t * (1 - 0.5**stage)
        A, B = float(v) + t**2, float(v) + r**2
        f = (float(v) / A) ** 0.5 * (x - float(m))
        expected = 2 * f * (1 - (float(v) + r * t) / (A * B) ** 0.5) / (t - r)
        assert pull(Exact(GAUSSIAN), x, t, stage) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("on", SCHEDULES)
def test_noise_levels_of_a_pair_match_the_paper_on_every_schedule(on: str) -> None:
    """x_r has the image and noise of x_t at the level t (1 − n(t)/q^a); below 0, it is the image itself."""
    kind, of = SCHEDULES[on]
    denoiser, seen = Denoiser(Affine(), kind, of), []
    call = denoiser.forward
    denoiser.forward = lambda x, t: (seen.append((x, t)), call(x, t))[1]  # type: ignore[method-assign]
    made, x0 = Consistency(stages=4), torch.rand(64, 1, 2, 2).double() * 2 - 1
    for stage in (1, 2, 3, 4):
        seen.clear()
        made.begin(stage - 1, 4)
        made(denoiser, x0, Streams(range(64)))
        (x_r, r), (x_t, t) = seen
        level_t, level_r = (torch.exp(-kind.log_snr(v) / 2) for v in (t, r))
        expected = level_t * (1 - (1 + 8 / (1 + level_t.exp())) / 2**stage)
        noisy = expected > 0
        assert noisy.any()
        torch.testing.assert_close(level_r[noisy], expected[noisy])
        torch.testing.assert_close(level_r[~noisy], level_t[~noisy])  # not used
        eps = []
        for x, time in ((x_r, r), (x_t, t)):
            alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in kind(time))
            eps.append((x - alpha * x0) / sigma)
        torch.testing.assert_close(*eps, rtol=1e-5, atol=1e-5)


def test_stages_divide_a_run_equally_and_the_last_one_remains() -> None:
    made, wrapped = Consistency(stages=3), Uncertainty(Consistency(stages=3))
    found = []
    for step in range(11):
        for each in (made, wrapped):
            each.begin(step, 10)
        assert isinstance(wrapped.objective, Consistency)
        assert int(wrapped.objective.stage) == int(made.stage)
        found.append(int(made.stage))
    assert found == [1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert made.half().stage.dtype == torch.long  # half precision does not round it
    assert not Consistency().state_dict()


def test_no_gradient_flows_through_the_target() -> None:
    denoiser, x0 = Denoiser(Affine(), EDM, prediction.EDM()), torch.rand(16, 1, 2, 2)
    noise, t = Streams(range(16)).normal(1, 2, 2), torch.full((16,), 0.01).double()
    made = objective(noise, 0.8, 4)
    made(denoiser, x0, Streams(range(16)))["loss"].mean().backward()
    twin = Denoiser(Affine(), EDM, prediction.EDM())
    target = twin(diffuse(EDM, x0, noise, t * (1 - 2**-4)), t * (1 - 2**-4)).x0.detach()
    (squared(twin(diffuse(EDM, x0, noise, t), t).x0, target) / (0.8 * 2**-4)).mean().backward()
    torch.testing.assert_close(denoiser.network.weight.grad, twin.network.weight.grad)
    assert twin.network.weight.grad.abs().min() > 0


def test_a_pair_shares_its_dropout_mask_and_the_next_step_draws_a_new_one() -> None:
    masks = []

    class Dropping(Affine):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Dropout(0.5), Dropout(0.5)

        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            ones = self.second(self.first(torch.ones_like(x)))
            masks.append(ones)
            return super().forward(x, label) * ones

    denoiser, x0 = Denoiser(Dropping(), schedule.cosine(), prediction.V()), torch.rand(4, 3, 8, 8)
    for numbered in (True, False):
        masks.clear()
        with examples(torch.tensor([5, 9, 2, 7]) if numbered else None):
            for seed in (0, 1):
                torch.manual_seed(seed)
                Consistency()(denoiser, x0, Streams(range(4)))
                after = torch.rand(())
                torch.manual_seed(seed)
                denoiser(x0, torch.full((4,), 0.5).double())
                assert torch.rand(()) == after  # uses as many random draws as one estimate
        assert torch.equal(masks[0], masks[1])
        assert torch.equal(masks[0], masks[2])
        assert not torch.equal(masks[0], masks[3])
        assert len({mask.numpy().tobytes() for mask in masks[0]}) == 4


def test_the_loss_depends_only_on_the_seed_and_both_estimates_get_the_conditions() -> None:
    class Classes(Affine):
        def forward(self, x: Tensor, label: Tensor, classes: Tensor) -> Tensor:  # type: ignore[override]
            seen.append(classes.tolist())
            return super().forward(x, label) * (1 + classes.reshape(-1, 1, 1, 1))

    seen: list[list[int]] = []
    denoiser, x0 = Denoiser(Classes(), schedule.cosine(), prediction.V()), torch.rand(4, 3, 8, 8)
    together = Consistency()(denoiser, x0, Streams([5, 6, 7, 8]), classes=torch.tensor([0, 1, 2, 3]))
    alone = Consistency()(denoiser, x0[2:3], Streams([7]), classes=torch.tensor([2]))
    assert torch.equal(alone["loss"], together["loss"][2:3])
    assert seen == [[0, 1, 2, 3], [0, 1, 2, 3], [2], [2]]


def test_the_loss_is_multiplied_by_the_importance_of_the_times() -> None:
    denoiser, x0, times = Denoiser(Affine(), schedule.VP(), prediction.V()), torch.rand(8, 1, 2, 2), LogNormal()
    found = Consistency(times)(denoiser, x0, Streams(range(8)))
    t, importance = times(schedule.VP(), Streams(range(8)))
    plain = Consistency(LogNormal(reweight=False))(denoiser, x0, Streams(range(8)))
    assert torch.equal(found["t"], t)
    assert torch.equal(found["term"], plain["loss"])
    torch.testing.assert_close(found["loss"], importance.float() * found["term"])
    assert importance.std() > 0.1


def test_pseudo_huber_matches_its_formula_with_zero_gradient_at_equality() -> None:
    x = torch.tensor([1e-5, 1e-3, 1.0, 30.0], dtype=torch.float64).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    y, c = torch.zeros_like(x), 0.1
    expected = torch.sqrt(x[:, 0, 0, 0] ** 2 + c**2) - c
    torch.testing.assert_close(pseudo_huber(x, y, c), expected, rtol=1e-6, atol=1e-12)
    same = y.clone().requires_grad_()
    pseudo_huber(same, y).sum().backward()
    assert torch.equal(same.grad, y)  # finite where the estimates are equal


def test_a_step_adds_fresh_noise_from_each_images_stream_to_the_estimate() -> None:
    denoiser = Denoiser(Affine(), schedule.cosine(), prediction.V())
    noise, seeds, xs = torch.randn(3, 1, 4, 4), [11, 12, 13], {}
    found = ConsistencySampler(3)(denoiser, noise, Streams(seeds), lambda k, x, e: xs.update({k: (x, e.x0)}))
    times = grid.consistency(schedule.cosine(), 3)
    levels = torch.exp(-schedule.cosine().log_snr(times[:3]) / 2)
    torch.testing.assert_close(levels[[0, 2]], torch.tensor([80, 0.821]).double())
    streams, x = Streams(seeds), noise
    for k, (t, s) in enumerate(pairwise(times), start=1):
        x0 = denoiser(x, t.expand(3)).x0
        alpha, sigma = (float(c) for c in schedule.cosine()(s))
        x = x0 if s == 0 else alpha * x0 + sigma * streams.normal_like(x)
        torch.testing.assert_close(xs[k][0], x)
    alone = ConsistencySampler(3)(denoiser, noise[1:2], Streams(seeds[1:2]))
    torch.testing.assert_close(alone, found[1:2])


def test_from_pure_noise_the_first_step_is_ancestral_and_one_step_equals_ddim() -> None:
    denoiser, noise = Denoiser(Affine(), schedule.Flow(), prediction.Velocity()), torch.randn(3, 1, 4, 4)

    def first_step(sampler: Sampler) -> Tensor:
        xs: list[Tensor] = []
        sampler(denoiser, noise, Streams(range(3)), lambda k, x, estimate: xs.append(x))
        return xs[0]

    both = (ConsistencySampler(2, grid.uniform), DDIM(2, grid.uniform, eta=1.0))
    torch.testing.assert_close(*map(first_step, both))
    one = [kind(1, grid.consistency)(denoiser, noise, Streams(range(3))) for kind in (ConsistencySampler, DDIM)]
    assert torch.equal(*one)
