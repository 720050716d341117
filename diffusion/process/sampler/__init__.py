"""Samplers: from noise to images along a grid of times. A sampler defines one `step` from t to s < t.

`loop` contains the loop shared by all samplers, `posterior` the samplers that discretise the reverse process,
`runge_kutta` the single-step ODE solvers, and `multistep` the solvers that reuse the estimates of earlier steps.
"""

from diffusion.process.sampler.loop import Evaluator, Past, Point, Sampler, Stepped, Time
from diffusion.process.sampler.multistep import AdamsBashforth, DPMSolver, DPMSolver2S, UniPC
from diffusion.process.sampler.posterior import DDIM, Ancestral, Consistency, PredictorCorrector, ReverseDiffusion
from diffusion.process.sampler.runge_kutta import Euler, Heun, Midpoint, ProbabilityFlow

__all__ = [
    "DDIM", "AdamsBashforth", "Ancestral", "Consistency", "DPMSolver", "DPMSolver2S", "Euler", "Evaluator", "Heun",
    "Midpoint", "Past", "Point", "PredictorCorrector", "ProbabilityFlow", "ReverseDiffusion", "Sampler", "Stepped",
    "Time", "UniPC",
]  # fmt: skip
