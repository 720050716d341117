"""How the images of an optimizer step are divided: among devices, and into batches whose gradients are accumulated.

`data.global_batch_size` sets how many images a step has, and so the numbers of the run; how they are divided changes
these by the rounding of sums. So a run need not know where it is trained: it accumulates as many batches of
`data.batch_size` as a step takes, and `auto` is the largest that fits there. What it is, is no part of the settings,
by which runs are compared; run.json and the checkpoints say it. A resumed run keeps it where it fits.
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
MOST = {"cpu": 8}  # images in a batch that `auto` finds: more take a CPU as much longer


@dataclass(frozen=True)
class Division:
    """The `images` of an optimizer step, as so many batches of `size` on each of the `devices`."""

    images: int
    size: int
    accumulate: int
    devices: int

    def __str__(self) -> str:
        batches, devices = count(self.accumulate, "batch"), count(self.devices, "device")
        return f"{count(self.images, 'image')} a step = {self.size} × {batches} on {devices}"


def check_batch(settings: Train) -> None:
    """Refuse a batch of unknown size, and two settings that both decide the accumulation, before an image is read."""
    whole, accumulate = settings.data.get("global_batch_size"), settings.trainer.accumulate_grad_batches
    if whole is None and settings.data.get("batch_size") == AUTO:
        raise UserError(
            "data.batch_size=auto: the numbers depend on how many images an optimizer step has, which what fits must "
            "not decide; give data.global_batch_size too, such as data.global_batch_size=64"
        )
    if whole is not None and accumulate > 1:
        raise UserError(
            f"trainer.accumulate_grad_batches={accumulate}: data.global_batch_size={whole} decides how many batches a "
            "step takes; give trainer.accumulate_grad_batches=1, or data.global_batch_size=null"
        )


def clock_of(settings: Train, data: ImageData, devices: int) -> Clock:
    """The run's clock; where `data.global_batch_size` is set, it does not know yet how a step is divided.

    Raises UserError where the images do not fill a step, or a step cannot be divided.
    """
    images, whole, size = len(data.splits["train"]), data.global_batch_size, data.batch_size
    if whole is None:
        return Clock.of(settings.trainer, images, size, devices, settings.least_interval)
    if whole > images:
        raise UserError(
            f"data.global_batch_size={whole}: the training split has {count(images, 'image')}, fewer than an optimizer "
            "step takes; lower it, add images, or cut large photographs into tiles (data=folder data.tiles=true)"
        )
    if whole % devices:
        raise UserError(
            f"data.global_batch_size={whole}: {devices} devices cannot have equal parts of it; give a multiple of "
            f"{devices}, such as {devices * -(-whole // devices)}"
        )
    if size and whole // devices % size:
        near = max(part for part in divisors(whole // devices) if part <= size)
        what = f"the {whole // devices} images of each device" if devices > 1 else "it"
        raise UserError(
            f"data.batch_size={size}: data.global_batch_size={whole}, and {what} cannot be divided into batches of "
            f"{size}; give a divisor, such as data.batch_size={near}, or data.batch_size=auto"
        )
    return Clock.of(settings.trainer, images, whole, 1, settings.least_interval)


def divide(
    module: Diffusion,
    data: ImageData,
    trainer: pl.Trainer,
    averages: int,
    folder: Path,
    record: RunRecord | None,
    before: Any = None,
) -> Division | None:
    """How a step is divided; None where `data.global_batch_size` is not set. The first process finds it, and says so.

    Args:
        module: As it will be trained, still on the CPU. It is not changed.
        averages: Sets of averaged weights that the run keeps.
        folder: Of the run.
        record: Of the run, on its first process; None on the others, which start when it is written.
        before: The size of the batch that the resumed run had.

    Raises UserError where not even one image fits, or what fits would change the numbers.
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
    """The largest batch that fits into a device's memory and divides its `images` of a step, and why not more.

    Args:
        before: The size that a resumed run had.
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
            f"data.batch_size=auto: a step of one image needs more memory than there is ({room}); choose a smaller "
            "model or data.resolution, or trainer.precision=bf16-mixed"
        )
    if more is not None:
        return size, f"{size} is the largest that fits: {more} needs more than {room}"
    return size, "the whole step fits at once" if size == images else "larger batches are no faster on a CPU"


def divisors(n: int) -> list[int]:
    """Those of n ≥ 1, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def check_pairs(module: Diffusion) -> None:
    """Refuse `auto` where noise is paired with the images of a batch, so that its size changes the numbers."""
    if any(depends_on_batch(getattr(part, "noise", None)) for part in module.objective.modules()):
        raise UserError(
            "data.batch_size=auto: the noise is assigned to the images of each batch, so the batch size would change "
            "the results; set a number, or noise@objective.noise=nearest or independent"
        )
