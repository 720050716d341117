from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.process.sampler import Evaluator, Past, Point, Sampler, Stepped, Time
from diffusion.randomness import Streams


@dataclass(eq=False)
class MySampler(Sampler):
    """Euler's method in t for the probability flow, on any schedule; on the flow schedule, x_s = x_t + (s − t)(ε − x0):

    x_s = x_t + (s − t)(alpha'_t x0 + sigma'_t ε),    with the network's estimates of x0 and ε at x_t (B, C, H, W)
    """

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))  # one evaluation of the network
        d_alpha, d_sigma = denoise.schedule.derivatives(torch.tensor([t.t], dtype=torch.float64))
        velocity = float(d_alpha) * now.estimate.x0 + float(d_sigma) * now.estimate.eps
        return x_t + (s.t - t.t) * velocity, now
