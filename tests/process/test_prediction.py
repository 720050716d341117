"""Predictions: x0 and eps from the output of a network, and the inputs of the network."""

import pytest
import torch
from sampler_cases import SCHEDULES
from torch import Tensor

from diffusion.process.denoiser import Denoiser, expand
from diffusion.process.objective import diffuse
from diffusion.process.prediction import EDM as EDMPrediction
from diffusion.process.prediction import X0, Eps, V, Velocity, scaled
from diffusion.process.schedule import EDM, VP, Flow, Schedule, linear

PREDICTIONS = {"eps": Eps(), "x0": X0(), "v": V(), "velocity": Velocity(), "edm": EDMPrediction(0.5)}
UNDEFINED = [("eps", on) for on in ("flow", "flow_shifted", "zero_snr")]
EXPLODING = [(p, on) for on in ("ve", "edm") for p in ("v", "velocity")]  # targets of standard deviation 50 to 426
VALID = [(p, on) for p in PREDICTIONS for on in SCHEDULES if (p, on) not in UNDEFINED + EXPLODING]


class Echo(torch.nn.Module):
    """A network with a fixed output, which records its inputs."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.inputs = (x, label)
        return self.output


@pytest.mark.parametrize(("name", "on"), VALID)
def test_x0_and_eps_are_recovered(name: str, on: str) -> None:
    schedule, prediction, t = SCHEDULES[on], PREDICTIONS[name], torch.linspace(0.005, 1, 100).double()
    image, noise = torch.randn(2, 100, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double().unbind()
    a, b = (expand(c, image) for c in prediction.weights(schedule, t))
    estimate = Denoiser(Echo(a * image + b * noise), schedule, prediction)(diffuse(schedule, image, noise, t), t)
    alpha, sigma = (expand(c, image) for c in schedule(t))
    # Near an end, one of the two is divided by a small coefficient, so the errors are measured by their effect on x_t.
    assert (alpha * (estimate.x0 - image).abs() < 1e-8 * (1 + sigma)).all()
    assert (sigma * (estimate.eps - noise).abs() < 1e-8 * (1 + sigma)).all()


@pytest.mark.parametrize("schedule", [VP(), EDM(), Flow(), linear()], ids=["vp", "edm", "flow", "linear"])
def test_edm_matches_table_1_of_karras(schedule: Schedule) -> None:
    """D(x; σ) = c_skip x + c_out F(c_in x; log(σ)/4) on x = x_t/alpha_t with σ = sigma_t/alpha_t."""
    sigma_data, t = 0.5, torch.tensor([0.03, 0.4, 0.9], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x_t, f = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64, generator=generator)
    network = Echo(f)
    denoised = Denoiser(network, schedule, EDMPrediction(sigma_data))(x_t, t).x0
    alpha_t, sigma_t = schedule(t)
    sigma = sigma_t / alpha_t
    norm = torch.sqrt(sigma**2 + sigma_data**2)
    x = x_t / expand(alpha_t, x_t)
    c_skip, c_out, c_in = sigma_data**2 / norm**2, sigma * sigma_data / norm, 1 / norm
    torch.testing.assert_close(denoised, expand(c_skip, x) * x + expand(c_out, x) * f)
    torch.testing.assert_close(network.inputs, (expand(c_in, x) * x, sigma.log() / 4))


def test_velocity_is_the_time_derivative_of_the_path() -> None:
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(Velocity().weights(Flow(), t), (-torch.ones_like(t), torch.ones_like(t)))
    torch.testing.assert_close(Velocity().weights(VP(), t), VP().derivatives(t))


def test_network_inputs_have_at_most_unit_variance() -> None:
    """c_in is 1 to float32 unless alpha² + sigma² exceeds 1, on VE and EDM."""
    t = torch.linspace(0.001, 1, 100, dtype=torch.float64)
    for name, schedule in SCHEDULES.items():
        c_in, variance = X0().inputs(schedule, t)[0], sum(c**2 for c in schedule(t))
        torch.testing.assert_close(c_in**2 * variance, variance.clamp(max=1))
        assert name in ("ve", "edm") or (c_in.float() == 1).all()


def test_the_time_label_is_exact_for_images_in_half_precision() -> None:
    x = torch.zeros(1000, 2, 4, 4, dtype=torch.bfloat16)
    network = Echo(x)
    Denoiser(network, linear(), V()).output(x, torch.arange(1, 1001).double() / 1000)
    assert network.inputs[1].tolist() == list(range(1000))


@pytest.mark.parametrize(("name", "on"), VALID)
def test_a_scale_of_the_images_is_that_of_their_values_and_undone_in_estimates(name: str, on: str) -> None:
    base, prediction, t = SCHEDULES[on], PREDICTIONS[name], torch.linspace(0.005, 1, 100).double()
    image, noise, y = torch.randn(3, 100, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double().unbind()
    schedule, other = scaled(base, prediction, 4.0)
    network = Echo(y)
    x_t, same = diffuse(schedule, image, noise, t), diffuse(base, 4 * image, noise, t)
    torch.testing.assert_close(4 * x_t, same)
    found, inputs = Denoiser(network, schedule, other)(x_t, t), network.inputs
    expected = Denoiser(network, base, prediction)(same, t)
    assert all(map(torch.equal, inputs, network.inputs))
    torch.testing.assert_close(4 * found.x0, expected.x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.eps, expected.eps, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(schedule.log_snr(t), 2 * (schedule(t)[0] / schedule(t)[1]).log())
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=1e-5, atol=1e-6)
