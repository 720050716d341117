"""The run's clock, which counts optimizer steps. Epochs, batches and intervals are converted to steps only here.

A step uses G = batch_size × devices × accumulate images. An epoch of N images has ⌊N/G⌋ steps; the remaining images
differ from epoch to epoch. With few images an epoch has only a step or two, so an interval of some epochs is extended
to a multiple of itself that has a minimum number of steps. For Lightning the whole run is one epoch, and the data
loader ends with the run. A step whose update is skipped (by the guard, or by float16's gradient scaler) counts as a
step, but weights, moments, average and learning rate do not change.
"""

import math
from dataclasses import dataclass, replace

from diffusion.base.console import console, count
from diffusion.config.schema import Train
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.training.resume import Resumed


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

    def steps(self, epochs: int) -> int:
        """Steps in an interval of `epochs` epochs, extended to the first multiple with at least `least` steps."""
        return epochs * self.epoch * math.ceil(self.least / (epochs * self.epoch))

    def epoch_after(self, step: int) -> int:
        """Number of complete epochs after `step` steps."""
        return (step + self.shift) // self.epoch

    def completes_step(self, batch_idx: int) -> bool:
        """Whether a batch, counted from 0 over the whole run, is the last one of its step."""
        return (batch_idx + 1) % self.accumulate == 0

    def validates(self, step: int) -> bool:
        """Whether a validation follows after `step` steps."""
        return step % self.validate_every == 0 or step >= self.total

    def every(self, epochs: int, step: int) -> bool:
        """Whether an interval of `epochs` epochs ends after `step` steps."""
        return step > 0 and step % self.steps(epochs) == 0


def clock_of(settings: Train, data: ImageData, devices: int, resumed: Resumed | None = None) -> Clock:
    """Return the run's clock.

    `data.global_batch_size` sets the images of a step, and with them the results of the run; how a step is divided into
    batches and among devices changes them only by the rounding of sums.

    Raises UserError if the images do not fill a step, or a step cannot be divided.
    """
    trainer, images, least = settings.trainer, len(data.splits["train"]), data.batch_size * devices
    whole, accumulate = data.global_batch_size, trainer.accumulate_grad_batches
    if whole is not None and (whole % least or accumulate > 1):
        raise UserError(
            f"data.global_batch_size={whole}: set a multiple of {least}, which is data.batch_size={data.batch_size} on "
            f"{count(devices, 'device')}, and trainer.accumulate_grad_batches=1, because it follows"
        )
    batch = whole or least  # the images of what counts as one batch
    together, every, limit = batch // least, images // batch, trainer.limit_train_batches
    limited = every if limit is None else min(every, limit) if isinstance(limit, int) else int(every * limit)
    if (epoch := limited // accumulate) < 1:
        less = "" if limit is None else f", or remove trainer.limit_train_batches={limit}"
        tiles = "more tiles" if settings.data.get("tiles") else "tiles (data=folder data.tiles=true)"
        raise UserError(
            f"the training split has {count(images, 'image')}, but an optimizer step needs {batch * accumulate}: lower "
            f"data.batch_size, add images, or cut large photographs into {tiles}{less}"
        )
    seen = 0 if resumed is None else resumed.seen(data)
    shift = seen // (batch * accumulate) - resumed.step if resumed is not None and seen else 0
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    total = int(min(math.inf if trainer.max_steps == -1 else trainer.max_steps, max(0, epoch * epochs - shift)))
    if total < trainer.max_steps:
        console.print(
            f"trainer.max_epochs={epochs} ends the run at step {total:,}, before trainer.max_steps="
            f"{trainer.max_steps}; trainer.max_epochs=-1 removes this limit"
        )
    shortest = max(1, min(settings.least_interval, total // 10))
    clock = Clock(epoch, total, accumulate * together, together, least=shortest, shift=shift)
    interval, between = trainer.val_check_interval, trainer.check_val_every_n_epoch or 1
    if isinstance(interval, int):
        validate_every = math.ceil(interval / accumulate)
    elif interval is None:
        validate_every = clock.steps(between)
    else:
        validate_every = max(1, int(epoch * between * interval))
    return replace(clock, validate_every=validate_every)
