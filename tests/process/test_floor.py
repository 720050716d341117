"""The floor of the loss on data whose best denoiser is known: brute force in float64, a Gaussian, a single image."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from diffusion.base.pixels import to_unit
from diffusion.errors import UserError
from diffusion.process import floor as module
from diffusion.process.denoiser import Denoiser
from diffusion.process.floor import floor, posterior
from diffusion.process.noise import nearest
from diffusion.process.objective import Simple, VariationalBound
from diffusion.process.prediction import EDM, V
from diffusion.process.schedule import VP
from diffusion.process.timesteps import FromFloor
from diffusion.process.weighting import snr
from diffusion.randomness import Streams

LEVELS = torch.tensor([0.01, 0.1, 0.5, 1.0, 3.0, 30.0], dtype=torch.float64)
g = torch.Generator().manual_seed(0)
IMAGES = torch.randint(256, (40, 3, 4, 4), generator=g).to(torch.uint8)
INDEX = torch.arange(30)
Atoms = partial(module.Atoms, unit=to_unit)


def brute(known: Tensor, x_t: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """The mean (B, D) and the variance per dimension (B,) of the posterior for x_t = x0 + level·eps, in float64."""
    distance = (x_t[:, None] - known[None]).square().sum(dim=2)
    weights = torch.softmax(-distance / (2 * level**2), dim=1)
    mean = weights @ known
    return mean, (weights[..., None] * (known[None] - mean[:, None]).square()).sum(dim=1).mean(dim=1)


@pytest.mark.parametrize("classes", [None, torch.arange(40) % 3])
def test_few_images_give_the_posterior_of_brute_force(classes: Tensor | None) -> None:
    """With mirror images, which have the class of their image; and among all atoms, or those of the same class."""
    atoms = Atoms(IMAGES, flip=True)
    known = torch.cat([IMAGES, IMAGES.flip(-1)]).flatten(1).double() / 127.5 - 1
    eps = torch.randn(30, 3, 4, 4, generator=g)
    allowed = None if classes is None else atoms.alike(classes[INDEX], classes)
    found = posterior(atoms, atoms[INDEX], eps, LEVELS, INDEX, allowed)
    for k, level in enumerate(LEVELS.tolist()):
        x_t = known[:30] + level * eps.flatten(1).double()
        for i in range(30):
            same = torch.ones(80, dtype=torch.bool) if classes is None else classes.repeat(2) == classes[i]
            mean, variance = brute(known[same], x_t[i : i + 1], level)
            torch.testing.assert_close(found.mean[k, i : i + 1].double(), mean, rtol=0, atol=2e-6)
            torch.testing.assert_close(found.variance[k, i : i + 1], variance, rtol=1e-5, atol=1e-7)
    assert (found.excess == 0).all()


def test_the_floor_of_one_image_is_zero_and_that_of_a_gaussian_is_its_posterior_variance() -> None:
    assert (floor(Atoms(IMAGES[:1]), LEVELS, n=8) < 1e-12).all()
    s = LEVELS[2:]
    found = floor(Atoms(torch.randn(20_000, 1, generator=g)), s, n=400)  # so many are drawn from their weights
    torch.testing.assert_close(found, s**2 / (1 + s**2), rtol=0.15, atol=0)


def test_the_floor_of_two_numbers_is_an_integral() -> None:
    """That of 1 and −1 at x_t = 1 + s eps is E sech²(x_t/s²): within 4 standard errors, because all noises differ."""
    z, n = torch.linspace(-8, 8, 10_001, dtype=torch.float64), 400
    density = torch.softmax(-(z**2) / 2, dim=0)
    found = floor(Atoms(torch.tensor([[1.0], [-1.0]])), LEVELS[2:], n)
    for level, value in zip(LEVELS[2:].tolist(), found.tolist(), strict=True):
        variance = torch.cosh((1 + level * z) / level**2) ** -2
        mean = float(density @ variance)
        assert abs(value - mean) <= 4 * float(density @ (variance - mean) ** 2 / n) ** 0.5


def test_a_label_leaves_the_images_of_its_class_and_dropout_takes_some_labels_away() -> None:
    """Of a class of white images the floor is 0, so that of all is half that of the other class."""
    dark, white, labels, n = IMAGES[:5] // 4, torch.full_like(IMAGES[:5], 255), torch.arange(10) // 5, 120
    atoms = Atoms(torch.cat([dark, white]), labels=labels)
    known, without = floor(atoms, LEVELS, n), floor(Atoms(atoms.images), LEVELS, n)
    torch.testing.assert_close(known, floor(Atoms(dark), LEVELS, n // 2) / 2, rtol=1e-5, atol=1e-9)
    assert without[-1] > 10 * known[-1]
    torch.testing.assert_close(floor(replace(atoms, dropout=0.25), LEVELS, n), 0.75 * known + 0.25 * without)
    mirrored = Atoms(torch.cat([0 * dark, white]), flip=True, labels=labels)
    assert (floor(mirrored, LEVELS, n) < 1e-12).all()


def test_draws_from_many_images_cover_the_exact_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 3 standard errors: the variance, and the squared distance of another image from the mean."""
    atoms, n = Atoms(IMAGES), 400
    x0 = atoms[torch.arange(n) % 40]
    eps, other = torch.randn(x0.shape, generator=g), torch.randn(n, 48, generator=g)
    exact = posterior(atoms, x0, eps, LEVELS, torch.arange(n))
    monkeypatch.setattr(module, "EXACT", 10)
    monkeypatch.setattr(module, "DRAWS", 4)
    drawn = posterior(atoms, x0, eps, LEVELS, torch.arange(n))
    error = drawn.variance - exact.variance
    assert (error[3:].std(dim=1) > 0).all()
    assert (error.mean(dim=1).abs() <= 3 * error.std(dim=1) / n**0.5 + 1e-7).all()
    distance = (other - drawn.mean).square().mean(dim=2) - drawn.excess - (other - exact.mean).square().mean(dim=2)
    assert (distance.mean(dim=1).abs() <= 3 * distance.std(dim=1) / n**0.5 + 1e-7).all()
    again = posterior(atoms, x0[7:9], eps[7:9], LEVELS, torch.tensor([7, 8]))  # whatever the batch
    torch.testing.assert_close(again.variance, drawn.variance[:, 7:9], rtol=1e-5, atol=1e-9)


class Best(Denoiser):
    """Its output is E[y | x_t] for five images, as that of the best network."""

    def output(self, x_t: Tensor, t: Tensor, **_: Tensor) -> tuple[Tensor, None]:
        (alpha, sigma), (a, b) = self.schedule(t[0]), self.prediction.weights(self.schedule, t[0])
        x0, _ = brute(
            IMAGES[:5].flatten(1).double() / 127.5 - 1, (x_t / alpha).flatten(1).double(), float(sigma / alpha)
        )
        return (a * x0 + b * (x_t.flatten(1) - alpha * x0) / sigma).view_as(x_t), None


@pytest.mark.parametrize("prediction", [V(), EDM()])
def test_times_know_the_loss_of_the_best_denoiser(prediction: V | EDM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor of `from_floor` is the loss of a network that computes E[x0 | x_t], within 4 standard errors."""
    times, atoms, schedule, n = FromFloor(bins=3), Atoms(IMAGES[:5]), VP(), 2000
    monkeypatch.setattr("diffusion.process.objective.floor", partial(floor, n=n))
    denoiser = Best(torch.nn.Identity(), schedule, prediction)
    Simple(times, weighting=snr).prepare(denoiser, atoms)
    for k, t in [*enumerate(times.middles(schedule))][1:]:  # at little noise, images are hardly ever confused
        objective = Simple(lambda schedule, streams, t=t: (t.expand(n), torch.ones(n)), weighting=snr)
        loss = objective(denoiser, atoms[torch.arange(n) % 5], Streams(range(n)))["loss"]
        error = float(loss.std()) * (2 / n) ** 0.5  # of the difference of two means
        assert abs(float(loss.mean() - times.floor[k])) <= 4 * error
    for other in VariationalBound(FromFloor()), Simple(FromFloor(), noise=partial(nearest, k=2)):
        with pytest.raises(UserError, match="only squared errors"):
            other.prepare(denoiser, atoms)
