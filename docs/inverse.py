"""Measure the methods for inverse problems; the section "Inverse problems" of docs/samplers.md.

    python -m docs.convergence   # writes the page
    python -m docs.inverse       # writes docs/inverse.png, of the bundled model

The data are 4×4 images of a Gaussian, and of a mixture of two, of which the denoiser and the posterior p(x0 | y) of a
linear observation are known exactly (`tests/support/oracle.py`).
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import diffusion
from diffusion.base.files import PACKAGE
from diffusion.base.pixels import grid, save_png
from diffusion.config.build import make
from diffusion.config.choices import choice
from diffusion.errors import UserError
from diffusion.process.operators import MaskOperator, Observation, Operator, blur, downsampling, observe
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import VP
from diffusion.randomness import Streams
from diffusion.sampling.edits import observation_of
from tests.support.oracle import GaussianOracle, MixtureOracle, sampler_moments

SIDE, D = 4, 16
SHAPE = (D, 1, 1)  # of an oracle's images
PLACES = torch.cartesian_prod(*2 * [torch.arange(SIDE, dtype=torch.float64)])
MEAN = 0.3 * torch.sin(torch.arange(D, dtype=torch.float64))
COVARIANCE = 0.25 * torch.exp(-torch.cdist(PLACES, PLACES) / 2)  # neighbouring pixels are alike
TEXTURE = 0.4 * (-1) ** PLACES.sum(dim=1) * (PLACES[:, 0] > 1.5)  # of which an observation shows little
MIXTURE = torch.tensor([0.4, 0.6]), MEAN + torch.stack([TEXTURE, -TEXTURE]), torch.stack([COVARIANCE, 0.6 * COVARIANCE])
N = 10_000  # samples of a mixture
Moments = tuple[Tensor, Tensor]


def of_square(operator: Operator) -> Operator:
    """An operator on images (B, 16, 1, 1), from one on squares (B, 1, 4, 4)."""
    return lambda x: operator(x.reshape(-1, 1, SIDE, SIDE))


KNOWN = torch.arange(D).view(SHAPE) < D // 2  # the upper half
OPERATORS: dict[str, tuple[Operator, float]] = {
    "mask": (MaskOperator(KNOWN), 0.0),
    "downsampling": (of_square(partial(downsampling, factor=2)), 0.1),
    "blur": (of_square(partial(blur, width=1.0)), 0.1),
}


class Row(NamedTuple):
    """A row of a table: the method as a choice of conf/inpainting, the sampler, its steps."""

    method: str
    sampler: str
    steps: int


ALL_PIXELS = "mmps inpainting.iterations=16"
GAUSSIAN_ROWS = [
    *(Row(ALL_PIXELS, name, steps) for name in ("ddim", "heun", "dpm_2m", "dpm_2m_sde") for steps in (20, 50)),
    *(Row(f"pigdm inpainting.deviation={s}", "dpm_2m_sde", steps) for s in (1, 4) for steps in (20, 50)),
    *(Row("split_gibbs", name, 20) for name in ("ddim", "dpm_2m_sde")),
    Row("split_gibbs inpainting.rounds=50", "dpm_2m_sde", 50),
    *(Row("repaint", name, 20) for name in ("ddim", "dpm_2m_sde")),
    Row("repaint inpainting.passes=1", "ddim", 50),
]
MIXTURE_ROWS = [
    Row("mmps", "dpm_2m", 50), Row("mmps", "dpm_2m_sde", 20), Row("mmps", "dpm_2m_sde", 50),
    Row("pigdm inpainting.deviation=1", "dpm_2m_sde", 50), Row("pigdm", "dpm_2m_sde", 50),
    Row("split_gibbs", "dpm_2m_sde", 20), Row("repaint", "dpm_2m_sde", 20),
]  # fmt: skip
ITERATIONS = (1, 3, 5, 8, 16)
NOISY = {"mask": 0.1, "downsampling": 0.1, "blur": 0.1, "blur, noise of 0.02": 0.02}


def observation(name: str, noise: float | None = None) -> Observation:
    """An observation of an image of the Gaussian, with another noise if it is given."""
    operator, noise = OPERATORS[name] if noise is None else (OPERATORS[name][0], noise)
    root = torch.linalg.cholesky(COVARIANCE)
    x0 = MEAN + root @ Streams.of(1, "image").normal(D, dtype=torch.float64)[0]
    return Observation(operator, SHAPE, observe(operator, x0.view(SHAPE), noise, Streams.of(1, "noise")), noise)


def posterior(seen: Observation, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and covariance of N(mean, covariance) given an observation; log p of it, plus a constant."""
    A = seen.operator(torch.eye(D, dtype=torch.float64).view(D, *SHAPE)).flatten(1).T
    A, y = A[A.any(dim=1)], seen.y.flatten()[A.any(dim=1)]  # without the unknown pixels of a mask
    total = A @ covariance @ A.T + seen.noise**2 * torch.eye(len(A))
    gain, residual = covariance @ A.T @ torch.linalg.inv(total), y - A @ mean
    log = -(residual @ torch.linalg.solve(total, residual) + torch.logdet(total)) / 2
    return mean + gain @ residual, covariance - gain @ A @ covariance, float(log)


def mixture_posterior(seen: Observation) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances of the mixture given an observation."""
    weights, means, covariances = MIXTURE
    rows = [posterior(seen, m, c) for m, c in zip(means, covariances, strict=True)]
    logs = weights.double().log() + torch.tensor([log for _, _, log in rows], dtype=torch.float64)
    return logs.softmax(0), torch.stack([m for m, _, _ in rows]), torch.stack([c for _, c, _ in rows])


def moments_of_mixture(weights: Tensor, means: Tensor, covariances: Tensor) -> Moments:
    mean = weights.double() @ means
    apart = means - mean
    return mean, torch.einsum("k,kde->de", weights.double(), covariances + apart[:, :, None] * apart[:, None])


def errors(found: Moments, exact: Moments) -> str:
    """‖Δm‖/√tr Σ and ‖ΔΣ‖/‖Σ‖, in percent."""
    mean = float((found[0] - exact[0]).norm() / exact[1].trace().sqrt())
    covariance = float((found[1] - exact[1]).norm() / exact[1].norm())
    return f"{100 * mean:.1f}, {100 * covariance:.1f}"


def wrapped(row: Row, seen: Observation) -> Sampler:
    made: Sampler = make(choice("inpainting", row.method), "inpainting")(
        make(choice("sampler", row.sampler, steps=row.steps, threshold=None), "sampler"), seen
    )
    return made


def gaussian_cell(row: Row, name: str) -> tuple[str, int]:
    """The errors of the exact moments of a method's samples, and its evaluations."""
    seen = observation(name)
    oracle = GaussianOracle(VP(), MEAN, COVARIANCE)
    found = sampler_moments(wrapped(row, seen), oracle)
    return errors(found, posterior(seen, MEAN, COVARIANCE)[:2]), oracle.calls


def drawn(sampler: Sampler, oracle: GaussianOracle | MixtureOracle) -> Moments:
    """The moments of N samples."""
    streams = Streams.of(N, "samples")
    x = sampler(oracle, streams.normal(*SHAPE, dtype=torch.float64), streams).flatten(1)
    return x.mean(dim=0), x.T.cov()


def mixture_cell(row: Row, name: str) -> tuple[str, int]:
    """The errors of the moments of N samples, and its evaluations."""
    seen = observation(name)
    oracle = MixtureOracle(VP(), *MIXTURE)
    found = drawn(wrapped(row, seen), oracle)
    return errors(found, moments_of_mixture(*mixture_posterior(seen))), oracle.calls


def iterations_cell(iterations: int, name: str) -> str:
    """The errors of the moments of N samples of `mmps` on the Gaussian: with few iterations, it is not affine."""
    seen = observation(name.partition(",")[0], NOISY[name])
    sampler = wrapped(Row(f"mmps inpainting.iterations={iterations}", "dpm_2m_sde", 50), seen)
    return errors(drawn(sampler, GaussianOracle(VP(), MEAN, COVARIANCE)), posterior(seen, MEAN, COVARIANCE)[:2])


def iterations_table() -> str:
    """Markdown; the row of the default says so."""
    lines = ["| `inpainting.iterations=` | time | " + " | ".join(NOISY) + " |", "| --- | --: |" + " --: |" * len(NOISY)]
    default = choice("inpainting", "mmps")["iterations"]
    for k in ITERATIONS:
        words = f"{k}, the default" if k == default else f"{k}"
        lines.append(f"| {words} | {k + 2} | " + " | ".join(iterations_cell(k, name) for name in NOISY) + " |")
    return "\n".join(lines)


def table(rows: list[Row], cell: Any, first: dict[str, list[str]]) -> str:
    """Markdown; `first` are rows of another kind, as name -> cells."""
    lines = ["| `inpainting=` | `sampler=` | steps | evaluations | " + " | ".join(OPERATORS) + " |"]
    lines.append("| --- | --- | --: | --: |" + " --: |" * len(OPERATORS))
    lines += [f"| {name} | | | | " + " | ".join(cells) + " |" for name, cells in first.items()]
    for row in rows:
        cells, evaluations = [], 0
        for name in OPERATORS:
            try:
                shown, evaluations = cell(row, name)
            except UserError:  # a method for masks only
                shown = "–"
            cells.append(shown)
        words = " ".join(f"`{word}`" for word in row.method.split())
        lines.append(f"| {words} | `{row.sampler}` | {row.steps} | {evaluations} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section() -> str:
    """The section of docs/samplers.md."""
    gaussians = [(observation(name), posterior(observation(name), MEAN, COVARIANCE)[:2]) for name in OPERATORS]
    mixtures = [mixture_posterior(observation(name)) for name in OPERATORS]
    exact = []
    for weights, means, covariances in mixtures:
        k = torch.multinomial(weights, N, replacement=True, generator=torch.Generator().manual_seed(0))
        values, axes = torch.linalg.eigh(covariances)
        roots = axes * values.clamp(min=0).sqrt()[:, None]
        x = means[k] + torch.einsum("nde,ne->nd", roots[k], Streams.of(N, "exact").normal(D, dtype=torch.float64))
        exact.append(errors((x.mean(dim=0), x.T.cov()), moments_of_mixture(weights, means, covariances)))
    prior = moments_of_mixture(*MIXTURE)
    return SECTION.format(
        n=f"{N:,}",
        iterations=iterations_table(),
        gaussian=table(
            GAUSSIAN_ROWS, gaussian_cell, {"the data, without y": [errors((MEAN, COVARIANCE), g) for _, g in gaussians]}
        ),
        mixture=table(
            MIXTURE_ROWS,
            mixture_cell,
            {
                "the data, without y": [errors(prior, moments_of_mixture(*each)) for each in mixtures],
                "exact samples": exact,
            },
        ),
    )


SECTION = """## Inverse problems

The methods of [`inpainting=`](editing.md) draw from p(x0 | y) for a linear observation y of the image. On these data,
it is known exactly: 4×4 images, of which the mask shows the upper half (without noise), downsampling by 2 four means of
four pixels, and blur 16 sums with a width of one pixel, the last two with noise of 0.1. The first number of a cell is
the error of the mean, in percent of the posterior's standard deviation (√tr Σ); the second is that of the covariance,
in percent of its norm. Both come from the matrices of a sampler that is affine in its noise, not from samples.

On a **Gaussian** whose neighbouring pixels are alike (correlation e^(−distance/2), standard deviation 0.5):

{gaussian}

- `mmps` takes the covariance of x0 given x_t from the denoiser, so on a Gaussian its estimate is E[x0 | x_t, y] to the
  last digits, at every x_t and with every operator. What is left is the sampler's own error, exactly that of sampling
  the posterior with its own denoiser, and it vanishes with more steps.
- `pigdm` counts the pixels as independent with one standard deviation. For data that are, it is exact, too. These are
  not, and its error of the mean does not vanish with more steps. Its default of 4 is for larger images (the colours of
  the demo's 32×32 answers are wrong with 1); here, with 16 pixels, 1 is better.
- `split_gibbs` is exact in the limit of many rounds of an exact sampler, which has to add noise: compare 20 and 50.
- `repaint` is for masks only, and keeps an error, too. With one pass it is plain replacement.

A product with the network's Jacobian costs about as much as an evaluation, to be added to those of the table: `pigdm`
needs one after each evaluation, `mmps` one for each iteration and one more.

**Fewer iterations** than values of y are not exact. On this Gaussian, by `dpm_2m_sde` in 50 steps ({n} samples,
whose own errors are about 1 and 4; time in evaluations at each step):

{iterations}

So 3 are enough to enlarge, but not to sharpen, and less noise needs more. The default is the first row whose mean is
within 5% of a deviation in every column; 8 are exact here.

On a **mixture** of two such Gaussians, one of them with a texture in the lower half and one with its negative, of which
y shows little or nothing, no method is exact. These are the errors of {n} samples, whose own errors are those of the
second row; `mmps` has its default of 5 iterations:

{mixture}
"""


def main() -> None:
    """Draw docs/inverse.png: for each operator and photograph, the original, the observation and four answers."""
    model, photos = diffusion.load("demo"), PACKAGE / "data/landscapes/photos"
    rows = []
    for name in ("downsampling", "blur", "grey"):
        for photo in ("flower-meadow.jpg", "cliff-sea.jpg"):  # of the validation split
            _, shown = observation_of(choice("operator", name), photos / photo, model.restored.shape, None, False, 0)
            rows += [shown, model.solve(photos / photo, name, n=4)]
    save_png(grid(torch.cat(rows), columns=6, large=True), Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
