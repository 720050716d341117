"""How the images of an optimizer step are divided among devices and into batches for gradient accumulation.

`data.global_batch_size` sets the number of images in a step, and with it the results of the run; the division changes
them only by the rounding of sums. So a run does not depend on where it is trained: it accumulates as many batches of
`data.batch_size` as a step needs, and `auto` is the largest size that fits into memory. The size found is not part of
the settings, by which runs are compared; run.json and the checkpoints store it. A resumed run keeps it if it fits.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from diffusion.config.schema import Train
from diffusion.console import console, count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.process.noise import depends_on_batch
from diffusion.runs.record import RunRecord
from diffusion.training.clock import Clock
from diffusion.training.module import Diffusion
from diffusion.training.trials import Trials, largest

AUTO = "auto"
MOST = {"cpu": 8}  # largest batch that `auto` chooses: on a CPU, time grows in proportion to the batch


@dataclass(frozen=True)
class Division:
    """A step of `images` images, divided into `accumulate` batches of `size` images on each of the `devices`."""

    images: int
    size: int
    accumulate: int
    devices: int

    def __str__(self) -> str:
        batches, devices = count(self.accumulate, "batch"), count(self.devices, "device")
        return f"{count(self.images, 'image')} per step = {self.size} × {batches} on {devices}"


def check_batch(settings: Train) -> None:
    """Reject a batch of unknown size and two settings that both set the accumulation, before any image is read."""
    whole, accumulate = settings.data.get("global_batch_size"), settings.trainer.accumulate_grad_batches
    if whole is None and settings.data.get("batch_size") == AUTO:
        raise UserError(
            "data.batch_size=auto: the results depend on the number of images per optimizer step, which free memory "
            "must not decide; set data.global_batch_size too, such as data.global_batch_size=64"
        )
    if whole is not None and accumulate > 1:
        raise UserError(
            f"trainer.accumulate_grad_batches={accumulate}: data.global_batch_size={whole} already sets the batches "
            "per step; set trainer.accumulate_grad_batches=1, or data.global_batch_size=null"
        )


def clock_of(settings: Train, data: ImageData, devices: int, done: tuple[int, int] = (0, 0)) -> Clock:
    """Return the run's clock; with `data.global_batch_size`, it does not know yet how a step is divided.

    Raises UserError if the images do not fill a step, or a step cannot be divided.
    """
    images, whole, size = len(data.splits["train"]), data.global_batch_size, data.batch_size
    if whole is None:
        return Clock.of(settings.trainer, images, size, devices, settings.least_interval, done)
    if whole > images:
        raise UserError(
            f"data.global_batch_size={whole}: the training split has {count(images, 'image')}, fewer than an optimizer "
            "step needs; lower it, add images, or cut large photographs into tiles (data=folder data.tiles=true)"
        )
    if whole % devices:
        raise UserError(
            f"data.global_batch_size={whole}: it cannot be divided equally among {devices} devices; set a multiple "
            f"of {devices}, such as {devices * -(-whole // devices)}"
        )
    if size and whole // devices % size:
        near = max(part for part in divisors(whole // devices) if part <= size)
        what = f"the {whole // devices} images of each device" if devices > 1 else "it"
        raise UserError(
            f"data.batch_size={size}: data.global_batch_size={whole}, and {what} cannot be divided into batches of "
            f"{size}; set a divisor, such as data.batch_size={near}, or data.batch_size=auto"
        )
    return Clock.of(settings.trainer, images, whole, 1, settings.least_interval, done)


def divide(
    module: Diffusion,
    data: ImageData,
    trainer: pl.Trainer,
    averages: int,
    folder: Path,
    record: RunRecord | None,
    before: Any = None,
) -> Division | None:
    """Return how a step is divided; None without `data.global_batch_size`. The first process decides it and prints it.

    Args:
        module: The module as it will be trained, still on the CPU; it is not changed.
        averages: Number of averaged weight sets that the run keeps.
        folder: The run's folder.
        record: The run's record on the first process; None on the others, which start after it is written.
        before: Batch size of the resumed run.

    Raises UserError if not even one image fits, or if the batch size would change the results.
    """
    whole, devices, size, why = data.global_batch_size, trainer.world_size, data.batch_size, ""
    if whole is None:
        return None
    if not size and record is None:
        size = int(RunRecord(folder).content["batch"]["size"])
    elif not size:
        check_pairs(module)
        size, why = find_size(module, data, trainer, averages, whole // devices, before)
    division = Division(whole, size, whole // devices // size, devices)
    if record is not None:
        record.update(batch=asdict(division))
        for logger in trainer.loggers:
            logger.log_hyperparams({"batch": asdict(division)})
        console.print(f"batch: {division}" + (f" ({why})" if why else ""))
    return division


def find_size(
    module: Diffusion, data: ImageData, trainer: pl.Trainer, averages: int, images: int, before: Any
) -> tuple[int, str]:
    """Return the largest batch that fits into memory and divides a device's `images` of a step, and why no more fit.

    Args:
        before: Batch size of the resumed run.
    """
    most = MOST.get(trainer.strategy.root_device.type, images)
    sizes = [size for size in divisors(images) if size <= most]
    with Trials(module, data, trainer, averages + (trainer.world_size > 1)) as trials:
        if before in sizes and trials.fits(before):
            return before, "as before"
        size, more = largest(sizes, trials.fits)
    room = f"{trials.room / 1e9:.3g} GB"
    if size is None:
        raise UserError(
            f"data.batch_size=auto: a step with one image needs more memory than is available ({room}); choose a "
            "smaller model or data.resolution, or trainer.precision=bf16-mixed"
        )
    if more is not None:
        return size, f"{size} is the largest that fits: {more} needs more than {room}"
    return size, "the whole step fits in one batch" if size == images else "larger batches are no faster on a CPU"


def divisors(n: int) -> list[int]:
    """The divisors of n ≥ 1, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def check_pairs(module: Diffusion) -> None:
    """Reject `auto` if noise is paired with the images of a batch, because the batch size would change the results."""
    if any(depends_on_batch(getattr(part, "noise", None)) for part in module.objective.modules()):
        raise UserError(
            "data.batch_size=auto: the noise is assigned to the images of each batch, so the batch size would change "
            "the results; set a number, or noise@objective.noise=nearest or independent"
        )
