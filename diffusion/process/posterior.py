"""Posterior guidance: samplers of p(x0 | y) for any linear observation y = A x0 + noise·z, without training.

With p(x0 | x_t) ≈ N(D, V), where D is the denoiser's estimate of x0 and J = ∂D/∂x_t, Bayes' rule gives the estimate
    E[x0 | x_t, y] ≈ D + (sigma_t²/alpha_t) Jᵀ Aᵀ (noise² I + A V Aᵀ)⁻¹ (y − A D).
The methods differ in V. A product with Jᵀ costs about twice an evaluation of the network. If A is not linear, as for
latents, y − A D is that of A itself, and elsewhere its derivative at D stands in its place.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.denoiser import Conditioned, Denoise, Estimate, Wrapped, expand
from diffusion.process.editing import Inpainting
from diffusion.process.operators import MOST, Observation
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import PURE_NOISE
from diffusion.randomness import Streams


@dataclass(eq=False)
class Posterior(Wrapped):
    """The denoiser with the estimate of a `method`; not for an image of pure noise, of which J says nothing."""

    method: "PosteriorGuidance"

    def __call__(self, x_t: Tensor, t: Tensor, end: Tensor | None = None) -> Estimate:
        if end is not None:
            raise UserError("posterior: a flow map does not estimate E[x0 | x_t]; choose another sampler, such as ddim")
        alpha, sigma = (expand(c, x_t) for c in self.schedule(t))
        scale = torch.where(alpha * PURE_NOISE < sigma.clamp(max=1), 0.0, sigma**2 / alpha)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            estimate: Estimate = self.denoise(x, t)
        x0, eps = estimate.x0.detach(), estimate.eps.detach()

        def tweedie(v: Tensor) -> Tensor:
            return scale * torch.autograd.grad(estimate.x0, x, v, retain_graph=True)[0]

        r = None if self.method.deviation is None else ((alpha / sigma) ** 2 + self.method.deviation**-2) ** -0.5
        covariance = tweedie if r is None else lambda v: r**2 * v
        seen, observed = self.method.observation.near(x0)
        residual = observed.y.to(x0) - seen
        shift = tweedie(observed.gain(residual, covariance, observed.noise, self.method.iterations))
        return estimate._replace(x0=x0 + shift, eps=eps - alpha / sigma * shift)


class PosteriorGuidance(Inpainting):
    """Base class: runs the sampler on a denoiser that estimates E[x0 | x_t, y]."""

    iterations: int = MOST  # of conjugate gradients at each evaluation
    deviation: float | None = None  # s of `PiGDM`

    def __call__(
        self, denoise: Denoise, x: Tensor, streams: Streams, watch: Any = None, start: Any = None, **conditions: Any
    ) -> Tensor:
        x = self.inner(Posterior(Conditioned(denoise, conditions), self), x, streams, watch, start)
        return self.with_known(x)


class MMPS(PosteriorGuidance):
    """V = (sigma_t²/alpha_t) Jᵀ, by Tweedie the covariance of x0 given x_t (Rozet et al. 2024, "moment matching").

    V is exact if the denoiser is. So on a Gaussian the estimate is exactly E[x0 | x_t, y] if `iterations` suffice: one
    for each value of y is enough. Other distributions are approximated by their first two moments at each x_t.

    Args:
        iterations: Of conjugate gradients at each evaluation. Each needs a product with Jᵀ, and one more follows.
            Sharpening needs more than enlarging, and more with less noise.
    """

    def __init__(self, inner: Sampler, observation: Observation, iterations: Annotated[int, Ge(1)] = 5):
        super().__init__(inner, observation)
        self.iterations = iterations


class PiGDM(PosteriorGuidance):
    """V = r_t² I with r_t² = s² sigma_t²/(s² alpha_t² + sigma_t²), as of independent pixels (ΠGDM, Song et al. 2023).

    Exact for N(m, s² I); on other data it is biased, however many the steps. The guidance has the weight of Bayes' rule
    and not the further factor of the paper's Algorithm 1, which is for DDIM, so that every sampler can be used.

    Args:
        deviation: s, in the units of the images, which lie in [−1, 1]; 1 in the paper. Neighbouring pixels are alike,
            so the mean of many deviates more than if they were independent, which a larger s makes up for.
    """

    def __init__(self, inner: Sampler, observation: Observation, deviation: Annotated[float, Gt(0)] = 4.0):
        super().__init__(inner, observation)
        self.deviation = deviation
