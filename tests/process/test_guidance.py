"""Guidance on labelled Gaussians, with a known guided score."""

from typing import Any

import pytest
import torch
from labelled import Labelled
from sampler_cases import COVARIANCE, FINE, MEAN, SCHEDULES, D, as_images
from torch import Tensor

from diffusion.config.choices import choice
from diffusion.errors import UserError
from diffusion.process import grid
from diffusion.process.denoiser import Estimate
from diffusion.process.guidance import AutoGuidance, ClassifierFree, WindowGuidance
from diffusion.process.sampler import UniPC
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams
from diffusion.sampling.drawing import parts_of
from tests.support.oracle import GaussianOracle

VP = SCHEDULES["vp"]
MEANS = torch.stack([MEAN, -MEAN, MEAN.flip(0)])
COVARIANCES = torch.stack([COVARIANCE, COVARIANCE.flip(0, 1) / 2, torch.diag(torch.tensor([0.1, 0.2, 0.3]))])
WEIGHTS = torch.tensor([0.5, 0.3, 0.2]).double()
Y = torch.tensor([0, 1, 2, 1])
X = as_images(torch.linspace(-1.5, 1.5, 4 * D).double())
SCALES = [0.0, 0.7, 4.0]


def labelled(on: Schedule = VP) -> Labelled:
    return Labelled(on, WEIGHTS, MEANS, COVARIANCES.double())


def at(t: float, n: int = 4) -> Tensor:
    return torch.full((n,), t, dtype=torch.float64)


@pytest.mark.parametrize("on", ["linear", "flow"])
@pytest.mark.parametrize("time", [0.02, 0.999])
@pytest.mark.parametrize("scale", SCALES)
def test_the_guided_score_is_that_of_the_product_of_powered_densities(scale: float, time: float, on: str) -> None:
    """eps = −sigma ∇ log p(x|y)^w p(x)^(1−w), by automatic differentiation; x_t = alpha x0 + sigma eps stays true."""
    model, t = labelled(SCHEDULES[on]), at(time)
    alpha, sigma = model.schedule(t[0])
    guided = ClassifierFree(scale)(model)
    for y, oracle in enumerate(model.each):
        x = (X * torch.hypot(alpha, sigma)).requires_grad_()
        density = scale * oracle.posterior(x, t)[1] + (1 - scale) * model.mixture.posterior(x, t)[1]
        (score,) = torch.autograd.grad(density.sum(), x)
        estimate = guided(x.detach(), t, classes=torch.full((4,), y))
        torch.testing.assert_close(estimate.eps, -sigma * score, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(alpha * estimate.x0 + sigma * estimate.eps, x.detach(), rtol=1e-12, atol=1e-12)


def drawn(denoise: Any, **conditions: Tensor) -> Tensor:
    streams = Streams(range(4))
    return UniPC(5, grid=FINE)(denoise, streams.normal(D, 1, 1, dtype=torch.float64), streams, **conditions)


def test_scales_0_and_1_give_the_weak_and_the_strong_denoiser() -> None:
    """Bit for bit: scale 1 is the model with labels, evaluated alone, and scale 0 the model without."""
    model = labelled()
    conditional, marginal = drawn(model, classes=Y), drawn(model.mixture)
    model.calls.clear()
    assert torch.equal(drawn(ClassifierFree(1.0)(model), classes=Y), conditional)
    assert all("classes" in call for call in model.calls)
    assert torch.equal(drawn(ClassifierFree(0.0)(model), classes=Y), marginal)
    assert torch.equal(drawn(AutoGuidance(1.0)(model, model.mixture)), marginal)
    assert not torch.allclose(drawn(ClassifierFree(2.0)(model), classes=Y), conditional)


@pytest.mark.parametrize("on", ["linear", "edm"])
def test_an_interval_excludes_its_low_end_and_includes_its_high_end(on: str) -> None:
    """Each image counts by its own noise level: images outside get the strong estimate bit for bit."""
    model, weak, *_ = labelled(SCHEDULES[on]).each
    t = torch.tensor([0.3, 0.3005, 0.6, 0.6005]).double()
    alpha, sigma = SCHEDULES[on](t)
    low, _, high, _ = (sigma / alpha).tolist()
    limited, always = (AutoGuidance(3.0, *ends)(model, weak) for ends in ((low, high), ()))
    strong, guided, mixed = (denoise(X, t) for denoise in (model, always, limited))
    for i, inside in enumerate([False, True, True, False]):
        for j in range(2):
            assert not torch.equal(strong[j][i], guided[j][i])
            assert torch.equal(mixed[j][i], (guided if inside else strong)[j][i])
    for ends, inside in {(low, None): [0, 1, 1, 1], (None, high): [1, 1, 1, 0], (None, None): [1, 1, 1, 1]}.items():
        assert AutoGuidance(3.0, *ends).acts(SCHEDULES[on], t).tolist() == inside


def test_the_weak_denoiser_gets_classes_only_in_autoguidance() -> None:
    model, weak, more = labelled(), labelled(), torch.ones(4)
    ClassifierFree(2.0)(model)(X, at(0.4), classes=Y, more=more)
    assert [sorted(call) for call in model.calls] == [["classes", "more"], ["more"]]
    AutoGuidance(2.0)(model, weak)(X, at(0.4), classes=Y, more=more)
    assert [sorted(call) for call in weak.calls] == [["classes", "more"]]


def test_the_learned_variance_is_that_of_the_strong_denoiser() -> None:
    model = labelled()  # whose spread is the class
    assert torch.equal(ClassifierFree(2.0)(model)(X, at(0.4), classes=Y).spread, model(X, at(0.4), classes=Y).spread)


def test_the_interval_choice_guides_the_same_steps_as_the_papers_code() -> None:
    """The paper's code guides steps 17 to 22 of EDM's 32 (https://github.com/kynkaat/guidance-interval)."""
    (made, _), on = parts_of(choice("guidance", "interval")), SCHEDULES["edm"]
    times = grid.karras(on, 32, sigma_min=0.002, sigma_max=80.0)
    assert made.acts(on, times).nonzero().flatten().tolist() == list(range(17, 23))


def test_a_limit_lowers_the_scale_for_models_that_differ_more() -> None:
    """The difference of the estimates of N(m_1, c) and N(m_0, c) is 9/(c + 9) of m_1 − m_0 for noise of level 3."""
    tiny = 1e-4 * torch.eye(D).double()
    strong, weak = (GaussianOracle(VP, MEAN + shift, tiny) for shift in (0.0, 0.2))
    plain, far, near = (AutoGuidance(3.0, limit=limit)(strong, weak) for limit in (None, 0.01, 0.05))
    whole, lowered, estimate = (each(X, at(0.3)).x0 for each in (plain, far, strong))
    assert far.scale == pytest.approx(1 + 2 * 0.01 / 0.04, rel=1e-3)
    torch.testing.assert_close(lowered - estimate, (whole - estimate) / 4, rtol=1e-3, atol=1e-9)
    assert torch.equal(near(X, at(0.3)).x0, whole)
    again = AutoGuidance(3.0, limit=0.01)(strong, weak)
    assert torch.equal(again(X[1:2], at(0.3, 1)).x0, lowered[1:2])  # whichever image is the first


class Means:
    """A denoiser that estimates the mean of the image, and of a picture of its condition."""

    schedule = VP

    def __call__(self, x_t: Tensor, t: Tensor, picture: Tensor, classes: Tensor) -> Estimate:
        assert len(classes) == len(x_t)
        of_both = [each.mean(dim=(2, 3), keepdim=True).expand_as(each) for each in (x_t, picture)]
        return Estimate(of_both[0], of_both[1])


def test_windows_guide_away_from_what_each_quarter_says_by_itself() -> None:
    x, picture = (torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(i)).double() for i in range(2))
    guided = WindowGuidance(3.0)(Means())(x, at(0.5, 3), picture=picture, classes=Y[:3])
    for found, image in ((guided.x0, x), (guided.eps, picture)):
        whole, below = image.mean(dim=(2, 3), keepdim=True), image[:, :, 2:, :3].mean(dim=(2, 3), keepdim=True)
        torch.testing.assert_close(found[:, :, 2:, :3], (below + 3 * (whole - below)).expand(3, 2, 2, 3))
    with pytest.raises(UserError, match="expected even numbers"):
        WindowGuidance(3.0)(Means())(x[:, :, :3], at(0.5, 3), picture=picture[:, :, :3], classes=Y[:3])
