"""Bits per dimension of held-out images: the variational bound of a trained denoiser, as a record."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion.console import console, duration, progress_bar
from diffusion.data import ImageData, to_unit
from diffusion.errors import UserError
from diffusion.evaluation.cost import seconds_per_evaluation
from diffusion.evaluation.pipeline import Record
from diffusion.evaluation.test_ledger import code_version
from diffusion.metric.baselines import draw
from diffusion.metric.gap import mean_and_error
from diffusion.process.denoiser import Denoise, Estimate, Thresholded, clip
from diffusion.process.likelihood import variational_bound
from diffusion.process.schedule import Discrete
from diffusion.process.variance import fixed_small, learned_range
from diffusion.randomness import Streams, seed_for
from diffusion.training.callbacks import device_name

CONTINUOUS = 1000  # steps on a schedule that has none of its own


class Told(Thresholded):
    """A denoiser whose x0 is clipped, and which tells of how many images it estimated."""

    def __init__(self, denoise: Denoise, tell: Callable[[int], None]):
        super().__init__(denoise, clip)
        self.tell = tell

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate:
        self.tell(len(x_t))
        return super().__call__(x_t, t)


def bits_per_dimension(
    denoiser: Denoise, data: ImageData, split: str, n: int, batch_size: int, device: torch.device, **protocol: Any
) -> list[Record]:
    """The record `bits_per_dim` of `n` images of a split, said on the console after what it will cost.

    It is DDPM's bound of −log₂ p(x)/d: each step of the table, x0 clipped to the data's range, and for each step and
    image a draw of x_t, a function of the image's place alone. The variance is the network's own where it learns one,
    else the posterior's. The interval is clustered by the images' sources, as the gap's (`diffusion.metric.gap`), and
    there is none of one source. Raises UserError where the bound is not finite, where the split has no such images, and
    for n < 2.
    """
    if n < 2:
        raise UserError(f"bits={n}: an interval needs at least 2 images; use as many as time allows, such as bits=64")
    if split not in data.splits or len(data.splits[split]) < 2:
        raise UserError(f"bits={n}: the split {split} has no images to measure; choose another by split=…")
    held_out, schedule = data.splits[split], denoiser.schedule
    chosen = held_out.take(draw(torch.arange(len(held_out)), n))
    images, numbers = chosen.images, {source: i for i, source in enumerate(dict.fromkeys(chosen.sources))}
    steps = schedule.steps if isinstance(schedule, Discrete) else CONTINUOUS
    batch = min(batch_size, len(images))
    shape = (images.shape[1], images.shape[2], images.shape[3])
    seconds = seconds_per_evaluation(denoiser, shape, batch, device) * steps * len(images) / batch
    console.print(
        f"bits per dimension: {len(images)} images of {split} × {steps} network evaluations: about {duration(seconds)} "
        f"on {device_name(device)}"
    )
    half = torch.full((1,), 0.5, device=device)
    with torch.no_grad(), progress_bar() as bar:
        spread = denoiser(torch.zeros(1, *shape, device=device), half).spread
        variance = fixed_small if spread is None else learned_range
        task = bar.add_task("bits/dim", total=len(images) * steps, unit="im·step", note="")
        told = Told(denoiser, lambda count: bar.advance(task, count))
        parts = []
        for index in torch.arange(len(images)).split(batch):
            streams = Streams([seed_for("bits", i) for i in index.tolist()], device)
            parts.append(
                variational_bound(told, to_unit(images[index]).to(device), streams, steps, variance).bits.cpu()
            )
    bits = torch.cat(parts).double()
    if not bits.isfinite().all():
        raise UserError(
            f"bits={n}: the bound is not finite on schedule {type(schedule).__name__}; leave bits out, or use a "
            "checkpoint of another schedule, such as schedule=linear or schedule=cosine"
        )
    mean = mean_and_error(bits, torch.tensor([[numbers[source] for source in chosen.sources]]))
    value, error, half_width = float(mean.mean), float(mean.error), float(mean.half())
    known = not math.isnan(error)
    record: Record = {
        "metric": "bits_per_dim",
        "value": value,
        "error": error if known else None,
        "low": value - half_width if known else None,
        "high": value + half_width if known else None,
        "level": 0.95 if known else None,
        "std": None,
        "n": len(bits),
        "bound": f"{steps} steps, {variance.__name__}, x0 clipped",
        "resolution": f"{shape[1]}x{shape[2]}",
        "reference": {"split": split, "n": len(bits), "key": data.splits[split].key},
        "code": code_version(),
        **protocol,
        "what": "network",
    }
    interval = f" [{record['low']:.3f}, {record['high']:.3f}]" if known else ""
    console.print(f"bits per dimension, at most: {value:.3f}{interval}, {len(bits)} images of {split}", markup=False)
    return [record]
