"""Consistency tuning: its loss against closed forms, and samples drawn in one and two steps."""

from itertools import pairwise

import pytest
import torch
from networks import Affine
from torch import Tensor

from diffusion.model.network import Dropout, examples
from diffusion.process import prediction, schedule
from diffusion.process.consistency import ConsistencyTuning, pseudo_huber
from diffusion.process.denoiser import Denoiser
from diffusion.process.objective import Uncertainty
from diffusion.process.sampler import Consistency as ConsistencySampler
from diffusion.randomness import Streams

EDM = schedule.EDM()
SCHEDULES = {"edm": (EDM, prediction.EDM()), "linear": (schedule.linear(), prediction.Eps())}


@pytest.mark.parametrize("on", SCHEDULES)
def test_the_loss_of_a_pair_matches_the_paper_on_every_schedule(on: str) -> None:
    """d(f(x_t, t), f(x_r, r))/(t − r) in noise levels, of which only the first estimate has a gradient.

    x_r has the image and noise of x_t at the level t (1 − n(t)/q^a); below 0, its estimate is the image itself.
    """
    kind, of = SCHEDULES[on]
    denoiser, seen = Denoiser(Affine(0.4, 0.1), kind, of), []
    call = denoiser.forward
    denoiser.forward = lambda x, t: (seen.append((x, t)), call(x, t))[1]  # type: ignore[method-assign]
    made, x0 = ConsistencyTuning(stages=4), torch.rand(64, 1, 2, 2).double() * 2 - 1
    for stage in (1, 2, 3, 4):
        seen.clear()
        made.begin(stage - 1, 4)
        loss = made(denoiser, x0, Streams(range(64)))["loss"]
        (x_r, r), (x_t, t) = seen
        level_t, level_r = (torch.exp(-kind.log_snr(v) / 2) for v in (t, r))
        expected = level_t * (1 - (1 + 8 / (1 + level_t.exp())) / 2**stage)
        noisy = expected > 0
        assert noisy.any()
        torch.testing.assert_close(level_r[noisy], expected[noisy])
        eps = []
        for x, time in ((x_r, r), (x_t, t)):
            alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in kind(time))
            eps.append((x - alpha * x0) / sigma)
        torch.testing.assert_close(*eps, rtol=1e-5, atol=1e-5)
        target = torch.where(noisy.view(-1, 1, 1, 1), call(x_r, r).x0, x0).detach()
        by_hand = pseudo_huber(call(x_t, t).x0, target) / (level_t - expected.clamp(min=0))
        torch.testing.assert_close(loss, by_hand)
        slope, by_hand = (torch.autograd.grad(each.mean(), denoiser.network.weights)[0] for each in (loss, by_hand))
        torch.testing.assert_close(slope, by_hand)


def test_stages_divide_a_run_equally_and_the_last_one_remains() -> None:
    made, found = Uncertainty(ConsistencyTuning(stages=3)), []
    for step in range(11):
        made.begin(step, 10)
        found.append(int(made.objective.stage))
    assert found == [1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert made.half().objective.stage.dtype == torch.long  # half precision does not round it


def test_both_estimates_get_the_same_dropout_mask_and_conditions() -> None:
    class Dropping(Affine):
        def forward(self, x: Tensor, label: Tensor, classes: Tensor) -> Tensor:  # type: ignore[override]
            seen.append((drop(torch.ones_like(x)), classes.tolist()))
            return super().forward(x, label) * seen[-1][0]

    seen: list[tuple[Tensor, list[int]]] = []
    drop, x0 = Dropout(0.5), torch.rand(4, 3, 8, 8)
    denoiser = Denoiser(Dropping(0.4, 0.1), schedule.cosine(), prediction.V())
    with examples(torch.tensor([5, 9, 2, 7])):
        for _ in range(2):
            ConsistencyTuning()(denoiser, x0, Streams(range(4)), classes=torch.tensor([0, 1, 2, 3]))
    masks = [mask for mask, _ in seen]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[0], masks[2])
    assert [classes for _, classes in seen] == [[0, 1, 2, 3]] * 4


@pytest.mark.parametrize("c", [0.1, 0.0])
def test_pseudo_huber_matches_its_formula_with_zero_gradient_at_equality(c: float) -> None:
    x = torch.tensor([1e-5, 1e-3, 1.0, 30.0], dtype=torch.float64).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    y = torch.zeros_like(x)
    expected = torch.sqrt(x[:, 0, 0, 0] ** 2 + c**2) - c
    torch.testing.assert_close(pseudo_huber(x, y, c), expected, rtol=1e-6, atol=1e-12)
    same = y.clone().requires_grad_()
    pseudo_huber(same, y, c).sum().backward()
    assert torch.equal(same.grad, y)  # finite where the estimates are equal


def test_a_step_adds_fresh_noise_from_each_images_stream_to_the_estimate() -> None:
    denoiser = Denoiser(Affine(0.4, 0.1), schedule.cosine(), prediction.V())
    noise, seeds, xs = torch.randn(3, 1, 4, 4), [11, 12, 13], {}
    ConsistencySampler(3)(denoiser, noise, Streams(seeds), lambda k, x, e: xs.update({k: (x, e.x0)}))
    times = ConsistencySampler(3).grid(schedule.cosine(), 3)
    levels = torch.exp(-schedule.cosine().log_snr(times[:3]) / 2)
    torch.testing.assert_close(levels[[0, 2]], torch.tensor([80, 0.821]).double())
    streams, x = Streams(seeds), noise
    for k, (t, s) in enumerate(pairwise(times), start=1):
        x0 = denoiser(x, t.expand(3)).x0
        alpha, sigma = (float(c) for c in schedule.cosine()(s))
        x = x0 if s == 0 else alpha * x0 + sigma * streams.normal_like(x)
        torch.testing.assert_close(xs[k][0], x)
