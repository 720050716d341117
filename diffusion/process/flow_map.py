"""Flow maps: one network evaluation from any time t to any earlier time s (Boffi et al. 2025, arXiv 2505.18825).

With y = x/(alpha + sigma) and u = sigma/(alpha + sigma), a path of the probability-flow ODE satisfies dy/du = v(y, u),
v = eps − x0, on every schedule. Its flow map is Y(y, u, w) = y_w = (1 − w) x0 + w eps, where x0 and eps are what the
denoiser estimates at x_t if it is told the end w = u(s). At w = u they are those of an ordinary denoiser.
"""

from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser, diffuse, expand, slope
from diffusion.process.noise import Noise, independent
from diffusion.process.objective import Simple, Weighting
from diffusion.process.prediction import X0
from diffusion.process.timesteps import Timesteps
from diffusion.process.weighting import unit
from diffusion.randomness import Streams


class FlowMapTraining(Simple):
    """L_simple + E‖∂_w Y(y, u, w) − stopgrad v(Y(y, u, w), w)‖²: Lagrangian self-distillation (2505.18825, eq. 16).

    The first term trains the denoiser, whose v the second follows along the map: where it is 0, the map is that of
    this v. w is uniform in [0, u]. The derivative with respect to w is one product in forward mode. The second term
    costs about three times as much as the first, so it is computed for a `share` of the images, with other times.
    Returns also "residual" (B,), the second term in "loss", 0 for the other images, and "residual_t" (B,), its times.
    """

    ends = 16  # features of the way from u to w that the network is told

    def __init__(
        self,
        timesteps: Timesteps | None = None,
        weighting: Weighting = unit,
        noise: Noise = independent,
        share: Annotated[float, Gt(0), Le(1)] = 0.5,
    ):
        super().__init__(timesteps, weighting, noise=noise)
        self.share = share

    def forward(self, denoiser: Denoiser, x0: Tensor, streams: Streams, **conditions: Any) -> dict[str, Tensor]:
        if isinstance(denoiser.prediction, X0):  # whose v is infinite as the noise vanishes
            raise UserError("objective: flow_map needs another prediction than x0, such as v, edm, velocity or eps")
        if getattr(denoiser.network, "checkpointing", False):
            raise UserError(
                "objective: flow_map needs derivatives that checkpointing does not have; turn that of the network off"
            )
        result = super().forward(denoiser, x0, streams, **conditions)
        t, importance = self.timesteps(denoiser.schedule, streams)
        x_t, r = diffuse(denoiser.schedule, x0, self.noise(x0, streams), t), streams.uniform()
        some = (streams.stratified() < self.share).nonzero()[:, 0]
        if not len(some):  # on one of several devices
            return result
        given = {name: rows[some] for name, rows in conditions.items()}
        term = self.residual(denoiser, x_t[some], t[some], r[some], given)
        term = importance[some].to(term.dtype) * term / self.share
        residual = torch.zeros_like(result["loss"]).index_add(0, some, term)
        return {**result, "loss": result["loss"] + residual, "residual": residual, "residual_t": t}

    def residual(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, r: Tensor, given: dict[str, Any]) -> Tensor:
        """(B,) ‖∂_w Y − v‖² per value at w = r u, for x_t (B, C, *size) at times t (B,), given such conditions."""
        w, training = r * denoiser.schedule.flow_time(t), denoiser.training

        def end_point(w: Tensor) -> Tensor:
            estimate = denoiser(x_t, t, end=w, **given)
            return expand(1 - w, x_t) * estimate.x0 + expand(w, x_t) * estimate.eps

        denoiser.eval()  # the map of the network without dropout; EDM2's writes to its weights in training
        with sdpa_kernel(SDPBackend.MATH):  # other kernels of attention have no forward mode
            y, moved = torch.func.jvp(end_point, (w,), (torch.ones_like(w),))[:2]
        with torch.no_grad():
            followed = slope(denoiser, y, w, **given)
        denoiser.train(training)
        return (moved - followed).square().flatten(1).mean(dim=1)
