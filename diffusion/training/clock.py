"""The run's clock, which counts optimizer steps. Epochs, batches and intervals are converted to steps only here.

A step uses G = batch_size × devices × accumulate images. An epoch of N images has ⌊N/G⌋ steps; the remaining images
differ from epoch to epoch. With few images an epoch has only a step or two, so an interval of some epochs is extended
to a multiple of itself that has a minimum number of steps. For Lightning the whole run is one epoch, and the data
loader ends with the run. So checkpoints need only Lightning's own progress, and nothing has to be converted or
corrected when a run is resumed, validated, interrupted or ended. A step whose update is skipped (by the guard, or by
float16's gradient scaler) counts as a step, but weights, moments, average and learning rate do not change.
"""

import math
from dataclasses import dataclass, replace

from diffusion.config.schema import Train, Trainer
from diffusion.console import console, count
from diffusion.data import ImageData
from diffusion.errors import UserError


@dataclass(frozen=True)
class Clock:
    """The length of a run and its intervals, in steps.

    Args:
        epoch: steps in an epoch.
        total: steps in the run.
        accumulate: batches in a step.
        together: batches that count as one for random draws and for the logged loss: all batches of a step if its size
            is set (data.global_batch_size), so that nothing depends on how it is divided; otherwise 1.
        validate_every: steps between validations; the last step is always validated.
        least: minimum number of steps in an interval of any number of epochs.
        shift: steps of this size that the images before the run was resumed would fill, minus the steps made with them.
    """

    epoch: int
    total: int
    accumulate: int = 1
    together: int = 1
    validate_every: int = 1
    least: int = 1
    shift: int = 0

    @classmethod
    def of(
        cls,
        settings: Trainer,
        images: int,
        batch_size: int,
        devices: int,
        least: int = 1,
        done: tuple[int, int] = (0, 0),
    ) -> "Clock":
        """Return the clock of a run on `images` training images. Raises UserError if they do not fill one step.

        `least` is limited to a tenth of the run.
        """
        accumulate = settings.accumulate_grad_batches
        every = batches = images // (batch_size * devices)
        limit = settings.limit_train_batches
        if limit is not None:
            batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        epoch = batches // accumulate
        if epoch < 1 <= every // accumulate:
            raise UserError(
                f"trainer.limit_train_batches={limit}: it leaves no optimizer step in an epoch of {every} batches; set "
                "a larger number, or remove it"
            )
        if epoch < 1:
            raise UserError(
                f"the training split has {count(images, 'image')}, but an optimizer step needs "
                f"{batch_size * devices * accumulate} (data.batch_size={batch_size} × {count(devices, 'device')} × "
                f"trainer.accumulate_grad_batches={accumulate}): lower one of them, add images, or cut large "
                "photographs into tiles (data=folder data.tiles=true)"
            )
        epochs = math.inf if settings.max_epochs in (None, -1) else settings.max_epochs
        step, seen = done  # of the resumed run, whose steps may have had another number of images
        shift = seen // (batch_size * devices * accumulate) - step if seen else 0
        total = min(math.inf if settings.max_steps == -1 else settings.max_steps, max(0, epoch * epochs - shift))
        if total < settings.max_steps:
            console.print(
                f"trainer.max_epochs={epochs} ends the run at step {int(total):,}, before trainer.max_steps="
                f"{settings.max_steps}; trainer.max_epochs=-1 removes this limit"
            )
        clock = cls(epoch, int(total), accumulate, least=max(1, min(least, int(total) // 10)), shift=shift)
        interval, between = settings.val_check_interval, settings.check_val_every_n_epoch or 1
        if isinstance(interval, int):
            validate_every = math.ceil(interval / accumulate)
        elif interval is None:
            validate_every = clock.steps(between)
        else:
            validate_every = max(1, int(epoch * between * interval))
        return replace(clock, validate_every=validate_every)

    def steps(self, epochs: int) -> int:
        """Steps in an interval of `epochs` epochs, extended to the first multiple with at least `least` steps."""
        return epochs * self.epoch * math.ceil(self.least / (epochs * self.epoch))

    def times(self, epochs: int | None, step: int) -> int:
        """Number of intervals of `epochs` epochs that end after `step`, up to the end of the run; 0 for None."""
        return 0 if epochs is None else self.total // self.steps(epochs) - step // self.steps(epochs)

    def epoch_after(self, step: int) -> int:
        """Number of complete epochs after `step` steps."""
        return (step + self.shift) // self.epoch

    def completes_step(self, batch_idx: int) -> bool:
        """Whether a batch, counted from 0 over the whole run, is the last one of its step."""
        return (batch_idx + 1) % self.accumulate == 0

    def validates(self, step: int) -> bool:
        """Whether a validation follows after `step` steps."""
        return step % self.validate_every == 0 or step >= self.total

    def every(self, epochs: int | None, step: int) -> bool:
        """Whether an interval of `epochs` epochs ends after `step` steps; False if `epochs` is None."""
        return epochs is not None and step > 0 and step % self.steps(epochs) == 0


def check_batch(settings: Train) -> None:
    """Reject two settings that both set the accumulation, before any image is read."""
    whole, accumulate = settings.data.get("global_batch_size"), settings.trainer.accumulate_grad_batches
    if whole is not None and accumulate > 1:
        raise UserError(
            f"trainer.accumulate_grad_batches={accumulate}: data.global_batch_size={whole} already sets the batches "
            "per step; set trainer.accumulate_grad_batches=1, or data.global_batch_size=null"
        )


def clock_of(settings: Train, data: ImageData, devices: int, done: tuple[int, int] = (0, 0)) -> Clock:
    """Return the run's clock.

    `data.global_batch_size` sets the images of a step, and with them the results of the run; how a step is divided into
    batches and among devices changes them only by the rounding of sums.

    Args:
        done: the steps of the resumed run, and the training images that it has seen.

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
    each = whole // devices
    if whole % devices or each % size:
        raise UserError(
            f"data.global_batch_size={whole}: it cannot be divided into batches of {size} on "
            f"{count(devices, 'device')}; set a multiple of {devices * size}, or a data.batch_size that divides it"
        )
    clock = Clock.of(settings.trainer, images, whole, 1, settings.least_interval, done)
    return replace(clock, accumulate=each // size, together=each // size)
