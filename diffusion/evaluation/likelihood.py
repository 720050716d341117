"""Bits per dimension of held-out images: the variational bound of a trained denoiser, as a score."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion.checkpoint.provenance import code_version
from diffusion.console import console, progress_bar
from diffusion.data import ImageData, to_unit
from diffusion.errors import UserError
from diffusion.evaluation.cost import print_estimate
from diffusion.metric.baselines import draw
from diffusion.metric.gap import mean_and_error
from diffusion.metric.record import Reference, Score
from diffusion.process.denoiser import Denoise, Estimate, Thresholded, clip
from diffusion.process.likelihood import variational_bound
from diffusion.process.schedule import Discrete
from diffusion.process.variance import fixed_small, learned_range
from diffusion.randomness import Streams, seed_for

CONTINUOUS = 1000  # steps on a continuous schedule


class Counted(Thresholded):
    """A denoiser whose x0 is clipped, and which reports how many images it has estimated."""

    def __init__(self, denoise: Denoise, report: Callable[[int], None]):
        super().__init__(denoise, clip)
        self.report = report

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate:
        self.report(len(x_t))
        return super().__call__(x_t, t)


def bits_per_dimension(
    denoiser: Denoise, data: ImageData, split: str, n: int, batch_size: int, device: torch.device, **source: Any
) -> Score:
    """The score `bits_per_dim` of `n` images of a split. The cost is printed first.

    It is DDPM's bound of −log₂ p(x)/d: all steps of the schedule, x0 clipped to the range of the data, one draw of x_t
    for each step and image, as a function of the image's place alone. The variance is the network's if it learns one,
    else the posterior's. The interval is clustered by the images' sources, like the gap's (`diffusion.metric.gap`);
    with one source there is none.

    Raises UserError for n < 2, for a split with fewer than 2 images, and for a bound that is not finite.
    """
    if n < 2:
        raise UserError(f"bits={n}: an interval needs at least 2 images; use as many as time allows, such as bits=64")
    if split not in data.splits or len(data.splits[split]) < 2:
        raise UserError(f"bits={n}: the split {split} has no images to measure; choose another by split=…")
    held_out, schedule = data.splits[split], denoiser.schedule
    chosen = held_out.take(draw(torch.arange(len(held_out)), n))
    images, total = chosen.images, len(chosen)
    steps = schedule.steps if isinstance(schedule, Discrete) else CONTINUOUS
    shape = (images.shape[1], images.shape[2], images.shape[3])
    work = f"bits per dimension: {total} images of {split} × {steps} network evaluations"
    print_estimate(work, denoiser, shape, total, steps, batch_size, device)
    half = torch.full((1,), 0.5, device=device)
    with torch.no_grad(), progress_bar() as bar:
        spread = denoiser(torch.zeros(1, *shape, device=device), half).spread
        variance = fixed_small if spread is None else learned_range
        task = bar.add_task("bits/dim", total=total * steps, unit="im·step", note="")
        counted = Counted(denoiser, lambda count: bar.advance(task, count))
        parts = []
        for index in torch.arange(total).split(batch_size):
            streams = Streams([seed_for("bits", i) for i in index.tolist()], device)
            bound = variational_bound(counted, to_unit(images[index]).to(device), streams, steps, variance)
            parts.append(bound.bits.cpu())
    bits = torch.cat(parts).double()
    if not bits.isfinite().all():
        raise UserError(
            f"bits={n}: the bound is not finite on schedule {type(schedule).__name__}; leave bits out, or use a "
            "checkpoint of another schedule, such as schedule=linear or schedule=cosine"
        )
    numbers = {source: i for i, source in enumerate(dict.fromkeys(chosen.sources))}
    mean = mean_and_error(bits, torch.tensor([[numbers[source] for source in chosen.sources]]))
    value, error, half_width = float(mean.mean), float(mean.error), float(mean.half())
    interval = None if math.isnan(error) else (value - half_width, value + half_width)
    low, high = interval or (None, None)
    score = Score(
        metric="bits_per_dim",
        value=value,
        n=total,
        reference=Reference(split, total, held_out.key),
        error=error if interval else None,
        low=low,
        high=high,
        level=0.95 if interval else None,
        resolution=f"{shape[1]}x{shape[2]}",
        details={"bound": f"{steps} steps, {variance.__name__}, x0 clipped"},
    )
    shown = f" [{low:.3f}, {high:.3f}]" if interval else ""
    console.print(f"bits per dimension, at most: {value:.3f}{shown}, {total} images of {split}")
    return score.of("network", code_version(), source)
