"""Every solver, step by step, against diffusers or the algorithm of the paper, for a fixed network.

diffusers keeps its noise levels in float32. They are replaced by those of our schedule to compare only the solvers. If
the two differ on purpose, the test says why.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import diffusers
import pytest
import torch
from stand_ins import FixedNetwork, ReplayStreams
from torch import Tensor, nn

from diffusion.config.build import make
from diffusion.config.choices import choice
from diffusion.process import grid, prediction, schedule, variance
from diffusion.process.denoiser import Denoiser, clip
from diffusion.process.sampler import (
    DDIM,
    Ancestral,
    DPMSolver,
    Heun,
    PredictorCorrector,
    Sampler,
    UniPC,
    mean_over_step,
)

SHAPE = (2, 3, 4, 4)
N = 20


def draws(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(*SHAPE, generator=generator, dtype=torch.float64) for _ in range(n)]


TABLE = Denoiser(FixedNetwork(), schedule.linear(), prediction.Eps())
EDM_GRID = partial(grid.karras, sigma_min=0.002, sigma_max=80.0)


def levels(denoiser: Denoiser, times: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = denoiser.schedule(times)
    return alpha, sigma / alpha


def ours(sampler: Sampler, denoiser: Denoiser, noise: list[Tensor]) -> list[Tensor]:
    """x_t before each step and at the end."""
    alpha, sigma = denoiser.schedule(sampler.grid(denoiser.schedule, sampler.steps)[0])
    states = [noise[0] * torch.hypot(alpha, sigma)]
    sampler(denoiser, noise[0], ReplayStreams(*noise[1:]), watch=lambda k, x, estimate: states.append(x))
    return states


def vp_solver(
    kind: type, noise: list[Tensor], choice: Callable = grid.uniform, steps: int = N, **options: object
) -> list[Tensor]:
    """The same for a scheduler of diffusers that works on x_t itself."""
    scheduler = kind(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, timestep_spacing="trailing", **options)
    scheduler.set_timesteps(steps)
    times = choice(TABLE.schedule, steps)
    assert (scheduler.timesteps.double() + 1 - times[:-1] * 1000).abs().max() < 1e-9
    scheduler.sigmas = levels(TABLE, times)[1]
    states = [noise[0]]
    for k, t in enumerate(scheduler.timesteps):
        out, _ = TABLE.output(states[-1], times[k].expand(2))
        extra = {"variance_noise": noise[k + 1]} if len(noise) > 1 else {}
        states.append(scheduler.step(out, t, states[-1], **extra).prev_sample)
    return states


def same(a: list[Tensor], b: list[Tensor], tolerance: float = 1e-9) -> None:
    """Each state within `tolerance` of the other's largest value."""
    assert len(a) == len(b)
    for k, (x, y) in enumerate(zip(a, b, strict=True)):
        assert (x - y).abs().max() <= tolerance * y.abs().max(), f"state {k}"


FLOAT32 = 1e-5  # the tolerance where diffusers rounds x to float32


DPM, UNIPC = diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler
SDE = {"algorithm_type": "sde-dpmsolver++"}
MULTISTEP = {
    "1": (partial(DPMSolver, order=1), DPM, {"solver_order": 1}),
    "2": (partial(DPMSolver, order=2), DPM, {"solver_order": 2}),
    "1 sde": (partial(DPMSolver, order=1, eta=1.0), DPM, {"solver_order": 1, **SDE}),
    "2 sde": (partial(DPMSolver, order=2, eta=1.0), DPM, {"solver_order": 2, **SDE}),
    "3": (partial(DPMSolver, order=3), DPM, {"solver_order": 3}),
    "3, 5 steps": (partial(DPMSolver, order=3), DPM, {"solver_order": 3, "steps": 5}),
    "unipc 1": (partial(UniPC, order=1), UNIPC, {"solver_order": 1}),
    "unipc 2": (partial(UniPC, order=2), UNIPC, {"solver_order": 2}),
    "unipc 3, 5 steps": (partial(UniPC, order=3), UNIPC, {"solver_order": 3, "steps": 5}),
}


@pytest.mark.parametrize("name", MULTISTEP)
def test_multistep_solvers_match_diffusers(name: str) -> None:
    sampler, kind, options = MULTISTEP[name]
    noise = draws(N + 1 if "algorithm_type" in options else 1)
    found = ours(sampler(options.get("steps", N), grid.uniform), TABLE, noise)
    same(found, vp_solver(kind, noise, **options), FLOAT32 if kind is DPM else 1e-9)


def test_sde_dpm_solver_3m_with_half_the_second_difference_matches_k_diffusion() -> None:
    """A step of k-diffusion's 3M SDE with three estimates. diffusers has the wrong sign at the 1/2 of its phi_3."""
    H, r0, r1 = 1.4, 0.7, 1.3  # H = 2h
    m0, m1, m2 = draws(3)
    d1_0, d1_1 = (m0 - m1) / r0, (m1 - m2) / r1
    d1, d2 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1), (d1_0 - d1_1) / (r0 + r1)
    phi_2 = math.expm1(-H) / H + 1
    phi_3 = phi_2 / H - 0.5
    theirs = -math.expm1(-H) * m0 + phi_2 * d1 - phi_3 * d2
    torch.testing.assert_close(-math.expm1(-H) * mean_over_step(m0, [(-r0, m1), (-r0 - r1, m2)], H, 0.5), theirs)


@pytest.mark.parametrize("churn", [0.0, 5.0, 100.0])
def test_heun_matches_edm_algorithm_2(churn: float) -> None:
    """The pseudocode of the paper, on a schedule that extends above the start of the grid, so that t̂ can exceed it."""
    S_tmin, S_tmax, S_noise = 0.05, 50.0, 1.007
    denoiser = Denoiser(FixedNetwork(), schedule.EDM(sigma_max=200.0), prediction.EDM())
    sigma = levels(denoiser, EDM_GRID(denoiser.schedule, N))[1].tolist()
    noise = draws(N + 1)
    queue = noise[1:]

    def D(x: Tensor, level: float) -> Tensor:
        return denoiser(x, torch.full((2,), level / 200.0, dtype=torch.float64)).x0

    x, theirs = noise[0] * math.hypot(1, 80), [noise[0] * math.hypot(1, 80)]
    for t, t_next in itertools.pairwise(sigma):
        gamma = min(churn / N, math.sqrt(2) - 1) if S_tmin <= t <= S_tmax else 0.0
        t_hat = t + gamma * t
        x_hat = x + math.sqrt(t_hat**2 - t**2) * S_noise * queue.pop(0) if gamma > 0 else x
        d = (x_hat - D(x_hat, t_hat)) / t_hat
        x = x_hat + (t_next - t_hat) * d
        if t_next != 0:
            d_prime = (x - D(x, t_next)) / t_next
            x = x_hat + (t_next - t_hat) * (d / 2 + d_prime / 2)
        theirs.append(x)
    sampler = Heun(N, grid=EDM_GRID, churn=churn, churn_low=S_tmin, churn_high=S_tmax, churn_noise=S_noise)
    same(ours(sampler, denoiser, noise), theirs)


K_DIFFUSION = {
    "euler": (1, 0), "euler_ancestral": (1, 1), "dpm_1s": (1, 0), "dpm_2s": (2, 0), "dpm_2s_ancestral": (2, 1)
}  # fmt: skip


@pytest.mark.parametrize("name", K_DIFFUSION)
def test_the_samplers_named_after_those_of_k_diffusion_are_those(name: str) -> None:
    """In its terms: sigma_up of noise after a step to sigma_down, of first order or with the x0 at √(σ sigma_down)."""
    (order, eta), noise = K_DIFFUSION[name], draws(N + 1)
    denoiser = Denoiser(FixedNetwork(), schedule.EDM(sigma_max=200.0), prediction.EDM())
    sigma = levels(denoiser, EDM_GRID(denoiser.schedule, N))[1].tolist()
    D = lambda x, level: denoiser(x, torch.full((2,), level / 200.0, dtype=torch.float64)).x0  # noqa: E731
    theirs = [noise[0] * math.hypot(1, 80)]
    for t, t_next, z in zip(sigma, sigma[1:], noise[1:], strict=False):
        x, up = theirs[-1], eta * t_next * math.sqrt(1 - (t_next / t) ** 2)
        down, x0 = math.sqrt(t_next**2 - up**2), D(x, t)
        if order == 2 and down:
            middle = math.sqrt(t * down)
            x0 = D(x0 + middle / t * (x - x0), middle)
        theirs.append(x0 + down / t * (x - x0) + up * z)
    sampler = make(choice("sampler", name, steps=N), "sampler")
    same(ours(replace(sampler, grid=EDM_GRID), denoiser, noise), theirs)


def test_predictor_corrector_corrects_and_then_predicts() -> None:
    x, z1, z2, z3 = draws(4)
    step = lambda schedule, steps: torch.tensor([500, 499], dtype=torch.float64) / 1000  # noqa: E731
    t, corrected = torch.full((2,), 0.5, dtype=torch.float64), x
    norm = lambda v: v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)  # noqa: E731
    for z in (z1, z2):
        g = -TABLE(corrected, t).eps / TABLE.schedule(t[0])[1]
        size = 2 * (0.2 * norm(z) / norm(g)) ** 2
        corrected = corrected + size * g + (2 * size).sqrt() * z
    expected = PredictorCorrector(1, grid=step, corrections=0)(TABLE, corrected, ReplayStreams(z3))
    sampler = PredictorCorrector(1, grid=step, corrections=2, snr=0.2)
    torch.testing.assert_close(sampler(TABLE, x, ReplayStreams(z1, z2, z3)), expected)
    silent = Denoiser(nn.Identity(), TABLE.schedule, prediction.Eps())
    silent.output = lambda x_t, t: (torch.zeros_like(x_t), None)  # type: ignore[method-assign]
    assert PredictorCorrector(3)(silent, x, ReplayStreams(*draws(9))).isfinite().all()  # where the score is zero


def reference(kind: type, **options: object) -> object:
    """A scheduler of diffusers on the linear table, with ᾱ recomputed in float64: its own 1 − ᾱ is imprecise."""
    scheduler = kind(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False, **options)
    scheduler.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    return scheduler


@pytest.mark.parametrize(("spacing", "choice"), [("leading", grid.leading), ("trailing", grid.uniform)])
@pytest.mark.parametrize(("eta", "clipped"), [(0.0, False), (0.5, False), (0.5, True)])
def test_ddim_trajectory_matches_diffusers(spacing: str, choice: object, eta: float, clipped: bool) -> None:
    """With clipping, diffusers keeps the network's eps by default. Here eps is recomputed from the clipped x0."""
    noise = draws(11)
    scheduler = reference(diffusers.DDIMScheduler, timestep_spacing=spacing)
    scheduler.register_to_config(clip_sample=clipped)
    scheduler.set_timesteps(10)
    theirs = noise[:1]
    for t, z in zip(scheduler.timesteps, noise[1:], strict=True):
        out, step = FixedNetwork()(theirs[-1], t.double().expand(2)), {"use_clipped_model_output": clipped}
        theirs.append(scheduler.step(out, t, theirs[-1], eta=eta, variance_noise=z, **step).prev_sample)
    same(ours(DDIM(10, grid=choice, eta=eta, threshold=clip if clipped else None), TABLE, noise), theirs, 1e-8)


@pytest.mark.parametrize(("spacing", "choice"), [("leading", grid.leading), ("trailing", grid.uniform)])
@pytest.mark.parametrize("kind", [variance.fixed_small, variance.fixed_large])
def test_ancestral_trajectory_matches_diffusers(
    spacing: str, choice: object, kind: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers' last step adds noise if its timestep is not 0, as with trailing spacing. The paper's never does."""
    noise = draws(11)
    queue = noise[1:]
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: queue.pop(0))
    scheduler = reference(diffusers.DDPMScheduler, timestep_spacing=spacing, variance_type=kind.__name__)
    scheduler.set_timesteps(10)
    theirs = noise[:1]
    for t in scheduler.timesteps:
        step = scheduler.step(FixedNetwork()(theirs[-1], t.double().expand(2)), t, theirs[-1])
        theirs.append(step.prev_sample)
    found = ours(Ancestral(10, grid=choice, variance=kind), TABLE, noise)
    same(found, [*theirs[:-1], step.pred_original_sample], 1e-8)
