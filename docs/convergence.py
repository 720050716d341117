"""Measure every sampler's order of convergence; write docs/convergence.png and, with `docs.inverse`, docs/samplers.md.

    python -m docs.convergence

The data are N(m, Σ) in three dimensions, on the VP schedule. The optimal denoiser, the probability flow and the moments
of every sampler's output are known exactly (`tests/support/oracle.py`). Each sampler goes from t = 1 to
sigma/alpha = 0.05 in N equal steps in log-SNR, in float64. The grid stops before 0 because the last step of every
solver, to sigma = 0, is of first order.
"""

import math
import statistics
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from diffusion.config.build import make
from diffusion.config.choices import choice, choices
from diffusion.errors import UserError
from diffusion.process import grid
from diffusion.process.sampler import (
    DDIM,
    Ancestral,
    DPMSingle,
    DPMSolver,
    Heun,
    Midpoint,
    PredictorCorrector,
    Sampler,
    UniPC,
)
from diffusion.process.schedule import VP, Schedule
from diffusion.process.variance import fixed_large
from docs import inverse
from tests.support.oracle import GaussianOracle, sampler_moments

HERE = Path(__file__).parent
ROOT = torch.tensor([[0.6, 0.0, 0.0], [0.2, 0.4, 0.0], [-0.1, 0.3, 0.2]], dtype=torch.float64)
MEAN, COVARIANCE = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64), ROOT @ ROOT.T
STARTS = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double().reshape(4, 3, 1, 1)
STEPS = (8, 16, 32, 64, 128, 256)


class Row(NamedTuple):
    """A row of the table: label, class, yaml, evaluations per step, order in theory, source."""

    label: str
    kind: Callable[..., Sampler]
    yaml: str
    evaluations: int
    order: str
    source: str


DETERMINISTIC = [
    Row("DDIM, Euler, DPM-Solver++(1S)", DDIM, "ddim, euler, flow_euler, dpm_1s", 1, "1", "DDIM, eq. 12"),
    Row("Heun (EDM)", Heun, "heun", 2, "2", "EDM, Algorithm 2"),
    Row("Heun (flow)", partial(Heun, c=1.0), "flow_heun", 2, "2", "Flow matching"),
    Row("midpoint (flow)", Midpoint, "flow_midpoint", 2, "2", "Flow matching"),
    Row("DPM-Solver++(2S)", DPMSingle, "dpm_2s", 2, "2", "DPM-Solver++, Algorithm 1"),
    Row("DPM-Solver++(2M)", DPMSolver, "dpm_2m", 1, "2", "DPM-Solver++, Algorithm 2"),
    Row("DPM-Solver++(3M)", partial(DPMSolver, order=3), "dpm_3m", 1, "3", "DPM-Solver++, Proposition 4.1"),
    Row("UniPC-2", UniPC, "unipc", 1, "3", "UniPC, Algorithm 1"),
    Row("UniPC-3", partial(UniPC, order=3), "unipc, order=3", 1, "4", "UniPC, Algorithm 1"),
]  # fmt: skip
STOCHASTIC = [
    Row("ancestral, small variance", Ancestral, "ancestral", 1, "1", "DDPM, Algorithm 2"),
    Row(
        "ancestral, large variance", partial(Ancestral, variance=fixed_large), "ancestral", 1, "1", "DDPM, Algorithm 2"
    ),
    Row("DDIM, η = 1; Euler-ancestral", partial(DDIM, eta=1.0), "euler_ancestral, ddim, eta=1", 1, "1", "DDIM, eq. 16"),
    Row(
        "reverse diffusion",
        partial(PredictorCorrector, corrections=0),
        "predictor_corrector, corrections=0",
        1,
        "1",
        "Score SDE, eq. 46",
    ),
    Row("Heun, churn = 5", partial(Heun, churn=5.0), "heun", 2, "2", "EDM, Algorithm 2"),
    Row("DPM-Solver++(2S), ancestral", partial(DPMSingle, eta=1.0), "dpm_2s_ancestral", 2, "2", "k-diffusion"),
    Row("SDE-DPM-Solver++(2M)", partial(DPMSolver, eta=1.0), "dpm_2m_sde", 1, "2", "DPM-Solver++, section 5"),
    Row("SDE-DPM-Solver++(3M)", partial(DPMSolver, order=3, eta=1.0), "dpm_3m_sde", 1, "2", "DPM-Solver++, section 5"),
]


def inner_grid(schedule: Schedule, steps: int) -> Tensor:
    """N equal steps in log-SNR from t = 1 to sigma/alpha = 0.05."""
    return grid.log_snr(schedule, steps + 1, sigma_min=0.05)[:-1]


def flow(oracle: GaussianOracle, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The exact solution at time s () of the probability-flow ODE that passes through x_t (B, 3, 1, 1) at time t ().

    Along a principal axis of variance v, x − alpha m is multiplied by √((alpha_s² v + sigma_s²)/
    (alpha_t² v + sigma_t²)).
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = oracle.schedule(t), oracle.schedule(s)
    v, axes = torch.linalg.eigh(COVARIANCE)
    gain = ((alpha_s**2 * v + sigma_s**2) / (alpha_t**2 * v + sigma_t**2)).sqrt()
    centred = (x_t.flatten(1) - alpha_t * MEAN) @ axes
    return (alpha_s * MEAN + (gain * centred) @ axes.T).reshape(x_t.shape)


def flow_error(oracle: GaussianOracle, sampler: Sampler) -> float:
    """The largest error of x_s over the starts, 0 and the unit vectors."""
    times = inner_grid(oracle.schedule, sampler.steps)
    exact = flow(oracle, STARTS * torch.hypot(*oracle.schedule(times[0])), times[0], times[-1])
    return float((sampler(oracle, STARTS, None) - exact).abs().max())


def covariance_error(oracle: GaussianOracle, sampler: Sampler) -> float:
    """The largest error of the covariance of x_s, which is alpha_s² Σ + sigma_s² I."""
    alpha_s, sigma_s = oracle.schedule(inner_grid(oracle.schedule, sampler.steps)[-1])
    _, covariance = sampler_moments(sampler, oracle)
    return float((covariance - alpha_s**2 * COVARIANCE - sigma_s**2 * torch.eye(3)).abs().max())


def measure(
    oracle: GaussianOracle, rows: list[Row], error: Callable[[GaussianOracle, Sampler], float]
) -> list[list[float]]:
    """The error of each sampler for each number of steps."""
    return [[error(oracle, row.kind(steps, grid=inner_grid)) for steps in STEPS] for row in rows]


def draw(path: Path, panels: list[tuple[str, str, list[Row], list[list[float]]]]) -> None:
    """Plot the error against the network evaluations, log-log, with one panel for each kind of sampler."""
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 5.6), sharey=True, layout="constrained")
    for axis, (title, ylabel, rows, errors) in zip(axes, panels, strict=True):
        for k, (row, error) in enumerate(zip(rows, errors, strict=True)):
            evaluations = [row.evaluations * steps for steps in STEPS]
            axis.loglog(
                evaluations, error, "osD^v<>phX*Pd"[k] + "-", ms=4, lw=1.2, color=plt.cm.tab20(k), label=row.label
            )
        for order, at in ((1, 0.15), (2, 0.03), (3, 0.0025)):
            axis.loglog([64, 512], [at, at / 8**order], "k:", lw=0.8)
            axis.annotate(
                f"order {order}", (512, at / 8**order), (3, 0), textcoords="offset points", fontsize=7, va="center"
            )
        axis.set(title=title, xlabel="network evaluations", ylabel=ylabel, ylim=(1e-8, 1))
        axis.set_xlim(7, 900)
        axis.grid(alpha=0.2)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
    figure.savefig(path, dpi=130)


def table(rows: list[Row], errors: list[list[float]]) -> str:
    lines = ["| sampler | `sampler=` | evaluations per step | order | measured | error, 32 steps | source |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for row, error in zip(rows, errors, strict=True):
        measured = math.log2(error[-2] / error[-1])
        names = ", ".join(f"`{name.strip()}`" for name in row.yaml.split(", ") if "=" not in name)
        extra = "".join(f" `sampler.{name}`" for name in row.yaml.split(", ") if "=" in name)
        lines.append(
            f"| {row.label} | {names}{extra} | {row.evaluations} | {row.order} | {measured:.2f} "
            f"| {error[STEPS.index(32)]:.1e} | {row.source} |"
        )
    return "\n".join(lines)


def wasserstein(mean: Tensor, covariance: Tensor) -> float:
    """The 2-Wasserstein distance of N(mean, covariance) to the data."""
    cross = torch.linalg.eigvalsh(ROOT.T @ covariance @ ROOT).clamp(min=0).sqrt().sum()
    return float((mean - MEAN).square().sum() + (COVARIANCE + covariance).trace() - 2 * cross) ** 0.5


def defaults_table() -> str:
    """The largest and the median error over all schedules, for every choice of conf/sampler that is affine in x_t."""
    oracles = [
        GaussianOracle(make(choice("schedule", name), "schedule"), MEAN, COVARIANCE) for name in choices("schedule")
    ]
    lines = ["| `sampler=` | 5 steps | 10 | 20 | 40 |", "| --- | --: | --: | --: | --: |"]
    for name in choices("sampler"):
        if name in ("predictor_corrector", "consistency", "flow_map"):
            continue
        cells = []
        for steps in (5, 10, 20, 40):
            sampler, errors = make(choice("sampler", name, steps=steps), "sampler"), []
            for oracle in oracles:
                with suppress(UserError):  # uniform grids on `edm`
                    errors.append(wasserstein(*sampler_moments(sampler, oracle)))
            cells.append(f"{max(errors):.3f}, {statistics.median(errors):.3f}")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


PAGE = """# Samplers

This page is generated by `python -m docs.convergence` from measurements. The data distribution is a three-dimensional
Gaussian, for which the optimal denoiser and the probability flow are known exactly. The schedule is VP, with equal
steps in log-SNR from t = 1 to sigma/alpha = 0.05, in float64. *Measured* is log₂ of the ratio of the errors with 128
and 256 steps.

![error against evaluations](convergence.png)

## Deterministic

The error is the largest error of the final x, compared with the exact flow. A step that ends at sigma = 0 is of first
order and takes one evaluation (two with the midpoint rule), so N steps of a solver with two evaluations per step take
2N − 1 evaluations.

{deterministic}

UniPC-p has order p + 1, as its theorem says, because the corrector adds one order. The midpoint rule gains an order on
a Gaussian; on a mixture, the tests measure order 2.

Below 40 steps (15 in the SDE form), DPM-Solver++(3M) multiplies its second difference by a curvature of 0.5, as in the
reference code and in diffusers: the order is then 2, but the errors are smaller. Below 8 steps, the second-to-last step
of `unipc` and of DPM-Solver++ has at most order 2, as in diffusers. This table shows the root mean square error
relative to the exact solution for a one-dimensional mixture of two Gaussians, as the geometric mean over eight
schedules:

| sampler | grid | 5 steps | 10 | 20 | 30 | 40 | 60 |
| --- | --- | --: | --: | --: | --: | --: | --: |
| 3M, curvature 1 | `karras` | 0.594 | 0.190 | 0.0411 | 0.0094 | 0.0045 | 0.0021 |
| 3M, curvature 0.5 | `karras` | 0.486 | 0.160 | 0.0263 | 0.0074 | 0.0039 | 0.0021 |
| 3M, curvature 0.5, lower order at the end | `karras` | 0.177 | 0.189 | 0.0285 | 0.0078 | 0.0039 | 0.0021 |
| 3M, curvature 1 | `log_snr` | 0.226 | 0.0567 | 0.0109 | 0.0044 | 0.0026 | 0.0014 |
| 3M, curvature 0.5 | `log_snr` | 0.197 | 0.0540 | 0.0093 | 0.0042 | 0.0027 | 0.0016 |
| 3M, curvature 0.5, lower order at the end | `log_snr` | 0.160 | 0.0629 | 0.0094 | 0.0042 | 0.0027 | 0.0016 |
| UniPC-3 | `karras` | 0.601 | 0.199 | 0.0350 | 0.0063 | 0.0031 | 0.0014 |
| UniPC-3, lower order at the end | `karras` | 0.185 | 0.204 | 0.0371 | 0.0065 | 0.0031 | 0.0014 |

On a Gaussian with the grid `log_snr`, curvature 1 is already better from 10 steps upwards (0.0046 compared with 0.0090
with 20 steps).

## Stochastic

The error is the largest error of the covariance of the final x, which is computed exactly, not from samples.

{stochastic}

`predictor_corrector` runs `corrections` Langevin steps, with one evaluation each, before each step of reverse
diffusion, which needs about a thousand steps. Their step size is set by a signal-to-noise ratio, `snr`. In the limit of
many Langevin steps, the variance is too large by a fraction of about snr².

`consistency` is not in these tables, because it does not work with an ordinary denoiser. A step keeps only the estimate
of x0, which must be a sample and not a mean, as in a model tuned by `experiment=ect`
([mathematics.md](mathematics.md)).

The names of k-diffusion (`get_sigmas_karras` is the grid `karras`, `get_sigmas_exponential` is `log_snr`):

| k-diffusion | `sampler=` |
| --- | --- |
| `sample_euler`, `sample_euler_ancestral` | `euler`, `euler_ancestral` |
| `sample_heun` | `heun` |
| `sample_dpmpp_2s_ancestral`, the same with `eta=0` | `dpm_2s_ancestral`, `dpm_2s` |
| `sample_dpmpp_2m`, `sample_dpmpp_2m_sde`, `sample_dpmpp_3m_sde` | `dpm_2m`, `dpm_2m_sde`, `dpm_3m_sde` |
| `sample_dpm_2` | none: `dpm_2s` has the same order and cost |

## Default settings with few steps

The error is the 2-Wasserstein distance between the sampler's output and the Gaussian, from t = 1 to 0. Each cell shows
the largest error over all choices of `schedule=`, then the median. `tests/process/test_choices.py` checks the
largest errors.

{defaults}

With many steps, the largest error, 0.013, comes from `scaled_linear`: sampling starts from N(0, I), although its x_1
still contains a fraction of the image. A step of `heun` between two distant noise levels adds an error that grows with
their ratio; use at least 10 steps.

Originally, the grids in the noise level started at the end of the schedule. There, sigma/alpha is 2e4 with `cosine` and
1e8 with `zero_snr`, so most of the steps were in pure noise. Now t = 1 counts as level 160 if alpha is below 1/160, and
the step from it is of first order. This changed the samples of these grids on `cosine`, `cosine_shifted`,
`sigmoid`, `zero_snr` and `flow`. The largest errors over the schedules changed as follows:

| sampler | 5 steps | 10 | 20 | 40 |
| --- | --: | --: | --: | --: |
| `heun` | 17 → 1.84 | 141 → 0.230 | 4.94 → 0.046 | 0.939 → 0.013 |
| `dpm_2m` | 0.690 → 0.160 | 0.178 → 0.035 | 0.024 → 0.016 | 0.013 → 0.013 |
| `dpm_3m` | 0.616 → 0.277 | 0.299 → 0.093 | 0.139 → 0.013 | 0.013 → 0.013 |
| `unipc` | 0.689 → 0.136 | 0.159 → 0.049 | 0.039 → 0.013 | 0.013 → 0.013 |

Of all errors of the samplers and schedules there were then, 219 fell and 29 rose by more than 5% and 0.001. `heun` with
5 steps on `zero_snr` rose the most, from 0.79 to 1.02. `dpm_2m` with 10 steps on `cosine` rose from 0.009 to 0.031 on
this Gaussian, but fell from 0.070 to 0.041 on the mixture of the table above. `dpm_3m` with 20 steps rose from 0.006 to
0.011 on most schedules, because of its curvature.

{inverse}
## Grids and thresholds

The choices of `grid@sampler.grid=` are `uniform` (trailing), `leading`, `linspace`, `karras`, `edm`, `log_snr`,
`flow` and `consistency`. Every sampler works with every grid and every schedule, with two exceptions. The
grids `leading` and `linspace` need a discrete schedule, and `uniform` raises an error on `edm`, where equal steps in
sigma had an error of 0.6. Each class defaults to the grid of its paper, and so do the choices of `sampler=`.

A sampler can also start at any time t: `sampler(denoiser, x_t, streams, start=t)` runs the grid's steps below t. With
x_t = `diffuse(schedule, x0, noise, t)`, this is SDEdit.

The choices of `threshold@sampler.threshold=` are `clip` and `dynamic`; `sampler.threshold=null` turns thresholding off.
Without a threshold, the first estimate of x0 by a model that predicts ε has an error of 1/alpha times that of ε, up to
20,000 on `cosine`, 1,800 on `sigmoid` and 157 on `linear`. The images of trained networks then have saturated pixels,
unless `clip` limits the error. The other predictions do not have it.

Only `ancestral` uses a learned variance (`variance@sampler.variance=learned_range`). The other samplers ignore the
second half of the network's outputs.
"""


def main() -> None:
    torch.set_num_threads(1)
    oracle = GaussianOracle(VP(), MEAN, COVARIANCE)
    flow_errors = measure(oracle, DETERMINISTIC, flow_error)
    covariance_errors = measure(oracle, STOCHASTIC, covariance_error)
    draw(
        HERE / "convergence.png",
        [
            ("deterministic", "largest error", DETERMINISTIC, flow_errors),
            ("stochastic", "largest error of the covariance", STOCHASTIC, covariance_errors),
        ],
    )
    page = PAGE.format(
        deterministic=table(DETERMINISTIC, flow_errors),
        stochastic=table(STOCHASTIC, covariance_errors),
        defaults=defaults_table(),
        inverse=inverse.section(),
    )
    (HERE / "samplers.md").write_text(page, encoding="utf-8")
    print(f"wrote {HERE / 'convergence.png'} and {HERE / 'samplers.md'}")


if __name__ == "__main__":
    main()
