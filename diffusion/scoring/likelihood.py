"""Bits per dimension of held-out images under a trained denoiser: the variational bound, or the probability flow."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from diffusion.base.console import console, progress_bar
from diffusion.base.files import code_version
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.config.schema import Evaluate
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.findings.scores import describe, value_text
from diffusion.metric.measurements import estimated
from diffusion.metric.record import Reference, Score
from diffusion.metric.score import draw
from diffusion.process import grid as grids
from diffusion.process.denoiser import Conditioned, Denoise, Thresholded, clip
from diffusion.process.likelihood import flow_likelihood, variational_bound
from diffusion.process.schedule import Schedule
from diffusion.process.variance import Variance, fixed_small, learned_range
from diffusion.randomness import Streams, seeds_for
from diffusion.sampling.given import Given

log_snr = partial(grids.log_snr, sigma_min=0.01)  # DDPM's lowest noise level; 1000 steps to it are small enough


@dataclass(frozen=True)
class Bound:
    """DDPM's variational bound on −log₂ p(x)/d, with x0 clipped to the range of the data.

    A call (denoise, x0, streams, variance, discrete) returns the bits per dimension (B,) of the images x0 (B, C, H, W),
    which are levels of 8 bits if `discrete`; else their density.

    Args:
        steps: the number of steps, N.
        grid: (schedule, steps) -> N + 1 times that decrease to 0.
        variance: the variance of the reverse process; None: the network's if it learns one, else `fixed_small`.
    """

    steps: Annotated[int, Ge(1)] = 1000
    grid: Callable[[Schedule, int], Tensor] = log_snr
    variance: Variance | None = None
    metric: ClassVar[str] = "bits_per_dim"
    of_schedule: ClassVar[bool] = True  # whether the value depends on the schedule, apart from the network's errors

    def __call__(
        self, denoise: Denoise, x0: Tensor, streams: Streams, variance: Variance, discrete: bool = True
    ) -> Tensor:
        prior, terms = variational_bound(Thresholded(denoise, clip), x0, streams, self.steps, variance, self.grid)
        return prior + terms.sum(dim=1)


@dataclass(frozen=True)
class Flow:
    """−log₂ p(x)/d by the probability flow (`flow_likelihood`), independent of the batches up to the tolerance.

    Args:
        tolerance: the relative and absolute tolerance of the solver.
        lowest: the noise level sigma/alpha at which the integration starts, at least that of a table's row 1.
    """

    tolerance: Annotated[float, Gt(0)] = 1e-5
    lowest: Annotated[float, Gt(0)] = 0.002
    metric: ClassVar[str] = "bits_per_dim_flow"
    of_schedule: ClassVar[bool] = False
    variance: ClassVar[None] = None  # the flow has none

    def __call__(
        self, denoise: Denoise, x0: Tensor, streams: Streams, variance: Variance, discrete: bool = True
    ) -> Tensor:
        return flow_likelihood(denoise, x0, streams, self.lowest, self.tolerance, discrete)


def bits_per_dimension(restored: Restored, settings: Evaluate, data: ImageData, device: torch.device) -> Score:
    """The score of `settings.bits` images of a split, printed: that of p(x | label) if the data has the same classes.

    A model with a condition is given that of each image.

    The interval is clustered by the images' sources, like that of the gap (`metric.denoising`). Raises UserError for
    bits that are not finite.
    """
    likelihood: Bound | Flow = make(settings.likelihood, "likelihood")
    data.kind.require("bits")
    denoiser, held_out, labelled = restored.denoiser, data.splits[settings.split], has_classes_of(data, restored)
    if likelihood.of_schedule:  # it decodes levels of 8 bits; the flow alone also has a density
        data.kind.require("likelihood=bound")
    chosen = held_out.take(draw(torch.arange(len(held_out)), settings.bits))
    parts, n, given = [], len(chosen), data.condition and Given(data.condition, restored.shape, data.kind, "", chosen)
    with torch.no_grad(), progress_bar() as bar:
        x, t = torch.zeros(1, *data.shape, device=device), torch.full((1,), 0.5, device=device)
        variance = likelihood.variance or (fixed_small if denoiser(x, t).spread is None else learned_range)
        task = bar.add_task("bits/dim", total=n, unit="image", note="")
        for index in torch.arange(n).split(settings.batch_size or 1):
            streams = Streams(seeds_for("bits", last=index.tolist()), device)
            conditions = given(index.tolist(), settings.seed or 0, device) if given else {}
            if labelled and chosen.labels is not None:
                conditions["classes"] = chosen.labels[index].to(device)
            denoise = Conditioned(denoiser, conditions) if conditions else denoiser
            x0 = data.kind.inside(chosen.images[index]).to(device)
            parts.append(likelihood(denoise, x0, streams, variance, data.kind.discrete).cpu())
            bar.update(task, advance=len(index))
    bits = torch.cat(parts).double()
    if not bits.isfinite().all():
        raise UserError(f"bits: {likelihood.metric} is not finite on this schedule; choose another likelihood")
    source = {"seed": settings.seed, **restored.source}
    protocol = {"likelihood": describe({k: v for k, v in settings.likelihood.items() if k != "variance"})}
    if likelihood.of_schedule:
        protocol["schedule"] = describe(restored.config["schedule"])
        source["variance"] = getattr(variance, "func", variance).__name__
    if restored.labels:
        protocol["labels"] = "of the images" if labelled else "none"
    about = {"n": n, "reference": Reference(settings.split, n, held_out.key), "settings": protocol}
    size = "x".join(map(str, data.shape[1:]))
    score = estimated(likelihood.metric, float(bits.mean()), bits, chosen.sources, resolution=size, **about)
    console.print(f"{score.metric}: {value_text(score)}, {n} images of {settings.split}")
    return score.of("network", code_version(), source)


def has_classes_of(data: ImageData, restored: Restored) -> bool:
    """Whether the data has the classes of the model, which has some."""
    return bool(restored.labels) and [*restored.labels] == data.classes
