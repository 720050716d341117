"""Samplers: from noise to images along a grid of times. A sampler is one `step` from t to s < t; the loop is in `loop`.

`posterior`: what moves by the reverse process itself; `runge_kutta`: solvers of one step; `multistep`: solvers that
remember earlier steps.
"""

from diffusion.process.sampler.loop import Evaluator, Point, Sampler, Time
from diffusion.process.sampler.multistep import AdamsBashforth, DPMSolver, DPMSolver2S, UniPC
from diffusion.process.sampler.posterior import DDIM, Ancestral, PredictorCorrector, ReverseDiffusion
from diffusion.process.sampler.runge_kutta import Euler, Heun, Midpoint, ProbabilityFlow

__all__ = [
    "DDIM",
    "AdamsBashforth",
    "Ancestral",
    "DPMSolver",
    "DPMSolver2S",
    "Euler",
    "Evaluator",
    "Heun",
    "Midpoint",
    "Point",
    "PredictorCorrector",
    "ProbabilityFlow",
    "ReverseDiffusion",
    "Sampler",
    "Time",
    "UniPC",
]
