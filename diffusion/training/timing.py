"""The time of a run: a forecast, the use of the device (MFU), and the time of each part.

The forecast is a number of network evaluations times the time of one, which is the forward pass of one image. A
training step counts as three per image, because the backward pass costs as much as two. Model FLOPs utilization
(Chowdhery et al. 2022, appendix B) is the share of the device's peak that training uses; the peak is measured.
"""

import resource
import sys
import time
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.throughput import measure_flops
from lightning.pytorch.callbacks import Callback
from torch.utils.benchmark import Timer

from diffusion.config.build import make
from diffusion.config.schema import SCORED
from diffusion.console import console, count, duration
from diffusion.errors import first_line
from diffusion.evaluation.devices import device_name
from diffusion.evaluation.drawing import Drawing
from diffusion.process.denoiser import Denoise
from diffusion.randomness import real_dtype
from diffusion.report.run import utilization_text
from diffusion.runs.record import RunRecord
from diffusion.training.checks import is_error
from diffusion.training.clock import Clock
from diffusion.training.module import Diffusion
from diffusion.training.recipe import Recipe

SHOWN = 16  # samples in a picture if samples.n is not set
STEP = 3  # evaluations per image in a training step
LONG = 60.0  # seconds of training from which on its utilization of the device is measured
TIMED = 8  # maximum batch of the timed evaluation on a CPU, where time is proportional to the batch
MEASURED = slice(5, 25)  # the batches of the run that are timed
APART = ("validation", "pictures", "scores", "checkpoints")  # parts of a run, in `Spent`, that may lie between batches


class Amounts(NamedTuple):
    """How many samples a run scores, and how many its pictures show."""

    scored: int
    shown: int


def affordable(recipe: Recipe, drawing: Drawing, clock: Clock, devices: int) -> Amounts:
    """The amounts in the settings; where they are not set, sampling takes no more evaluations than training.

    So either `SCORED` samples are scored or none (always `SCORED` if a sweep optimizes a score), and pictures show at
    most `SHOWN` samples.
    """
    settings, nfe = recipe.settings, drawing.evaluations(recipe.schedule)
    training = evaluations_of_steps(clock.total, recipe, clock, devices)
    scored, shown = settings.score.n, settings.samples.n
    if scored is None:
        scored = SCORED if SCORED * nfe <= training or not is_error(settings.sweep.score) else 0
        if not scored:
            console.print(
                f"no scores: {SCORED} samples need {SCORED * nfe:,} network evaluations, more than the training "
                f"({training:,}); score=quick or score=full enables them"
            )
    if shown is None:
        shown = min(SHOWN, training // (nfe * (1 + clock.times(settings.samples.every_n_epochs, 0))))
        if shown < SHOWN:
            console.print(
                f"pictures of {count(shown, 'sample')}: {SHOWN} would cost more than the training; samples.n={SHOWN} "
                "draws them anyway"
            )
    return Amounts(scored, shown)


def evaluations_of_steps(steps: int, recipe: Recipe, clock: Clock, devices: int = 1) -> int:
    """The evaluations of training steps, on all devices."""
    return round(STEP * steps * clock.accumulate * recipe.data.batch_size * devices * recipe.share)


@torch.no_grad()
def seconds_per_evaluation(
    denoise: Denoise, shape: tuple[int, int, int], batch_size: int, device: torch.device
) -> float:
    """Wall time in seconds of one evaluation of a batch, measured once after a warm-up."""
    x = torch.zeros(batch_size, *shape, device=device)
    t = torch.full((batch_size,), 0.5, device=device, dtype=real_dtype(device))
    for _ in range(2):
        began = time.perf_counter()
        denoise(x, t).x0.flatten()[0].item()  # synchronizes with the device
    return time.perf_counter() - began


class Forecast(Callback):
    """Prints how long the run will take before the first step, and later a measured time for training.

    Args:
        drawing: How the last samples are drawn.
        record: The run's record on the first process.
    """

    def __init__(
        self,
        recipe: Recipe,
        amounts: Amounts,
        drawing: Drawing,
        clock: Clock,
        record: RunRecord | None,
        spent: "Spent",
    ):
        self.recipe, self.amounts, self.drawing, self.clock = recipe, amounts, drawing, clock
        self.record, self.spent, self.seen = record, spent, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time an evaluation and print the forecast."""
        assert isinstance(pl_module, Diffusion)
        parts = [part for part in self.parts(trainer.global_step, trainer.world_size) if part[2]]
        if not trainer.is_global_zero or not parts:
            return
        size, device, denoiser = self.recipe.data.batch_size, pl_module.device, pl_module.denoiser
        batch = min(size, TIMED) if device.type == "cpu" else size
        denoiser.eval()
        with torch.compiler.set_stance("force_eager"), trainer.precision_plugin.forward_context():
            each = seconds_per_evaluation(denoiser, self.recipe.data.shape, batch, device) / batch
        denoiser.train()
        every = each * sum(evaluations for *_, evaluations in parts)
        console.print(f"forecast: about {duration(every)} on {device_name(device)} (a batch of {batch} was timed)")
        for name, amount, evaluations in parts:
            console.print(f"  {name:<10}  {amount:<32}  {duration(each * evaluations)}")
        if device.type == "cpu" and every > 3600:
            console.print("that is long for a CPU; experiment=demo trains a small model in a few minutes")

    def parts(self, step: int, devices: int) -> list[tuple[str, str, int]]:
        """Name, amount and evaluations of the work left after `step` steps, on the device that does most of it."""
        recipe, settings, clock, data = self.recipe, self.recipe.settings, self.clock, self.recipe.data
        last, during = (way.evaluations(recipe.schedule) for way in (self.drawing, self.drawing.in_training))
        (scored, shown), left = self.amounts, clock.total - step
        validations = -(-clock.total // clock.validate_every) - step // clock.validate_every
        images = -(-len(data.splits["val"]) // devices) * 2 * settings.validation.draws  # and as many training images
        validation = validations * images * (2 if recipe.ema else 1)
        pictures, scores = (
            clock.times(n, step) for n in (settings.samples.every_n_epochs, settings.score.every_n_epochs)
        )
        share, more = -(-scored // devices), max(0, shown - scored)
        return [
            ("training", count(left, "step"), evaluations_of_steps(left, recipe, clock)),
            ("validation", count(validations, "time"), validation),
            (
                "pictures",
                f"{pictures + (more > 0)} of {count(shown, 'sample')}",
                pictures * shown * during + more * last,
            ),
            ("scores", f"{scores + 1} of {count(scored, 'sample')}", share * (scores * during + last)),
        ]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Time the `MEASURED` batches, and print the time of the remaining steps and the utilization of the device."""
        self.seen += 1
        if self.seen == MEASURED.start:
            self.began = self.now(pl_module)
        if self.seen != MEASURED.stop or not trainer.is_global_zero:
            return
        batch = (self.now(pl_module) - self.began) / (MEASURED.stop - MEASURED.start)
        left, each = self.clock.total - trainer.global_step, batch * self.clock.accumulate
        console.print(f"{count(left, 'step')} left: about {duration(each * left)} of training (measured)")
        if self.record is not None and each * left >= LONG:
            rate = STEP * self.recipe.data.batch_size * self.recipe.share / batch
            if found := utilization(trainer, pl_module, self.recipe, rate):
                self.record.update(utilization=found)
                console.print(f"  {utilization_text(found)}")

    def now(self, module: pl.LightningModule) -> float:
        """The time in seconds, without that of the `APART` parts so far."""
        if module.device.type != "cpu":
            getattr(torch, module.device.type).synchronize()
        return time.perf_counter() - sum(self.spent.seconds.get(part, 0.0) for part in APART)


def utilization(trainer: pl.Trainer, module: pl.LightningModule, recipe: Recipe, rate: float) -> dict[str, Any] | None:
    """Return "tflops" per second and device, "peak_tflops" and the "precision" of the products, for run.json.

    None if the operations of the network cannot be counted, or if there is no memory for the measurement.

    Args:
        rate: Evaluations per second on one device.
    """
    with trainer.precision_plugin.forward_context():
        one = torch.ones(1, 1, dtype=next(module.parameters()).dtype, device=module.device)
        dtype = (one @ one).dtype
    try:
        with torch.device("meta"):
            network = make({**recipe.settings.model, **recipe.inputs}, "model")
            x, label = torch.zeros(1, *recipe.data.shape), torch.zeros(1)
        flops = measure_flops(network, lambda: network(x, label)) * rate
        peak = peak_flops(module.device, dtype)
    except Exception as error:  # a custom network may need a device with values, or other inputs
        console.print(f"the utilization of the device is unknown: {first_line(error)}", style="yellow")
        return None
    return {"tflops": flops / 1e12, "peak_tflops": peak / 1e12, "precision": str(dtype).removeprefix("torch.")}


@torch.no_grad()
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The operations per second of a large matrix product or of a large 3×3 convolution, whichever is faster."""
    n, batch, channels = (1024, 8, 128) if device.type == "cpu" else (4096, 32, 256)  # they keep the device busy
    a = torch.ones(n, n, dtype=dtype, device=device)
    x = torch.ones(batch, channels, 32, 32, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    w = torch.ones(channels, channels, 3, 3, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    operations = {"a @ a": 2 * n**3, "conv2d(x, w, padding=1)": 2 * 9 * channels**2 * x[:, 0].numel()}
    given = {"a": a, "x": x, "w": w, "conv2d": F.conv2d}
    return max(
        n / Timer(work, globals=given, num_threads=torch.get_num_threads()).blocked_autorange().median
        for work, n in operations.items()
    )


class Spent:
    """Wall time by part, without gaps: the time between two marks belongs to the part of the later one.

    This is the time of the process. A GPU works asynchronously, so its time counts for the part that waits for it.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def mark(self, part: str) -> None:
        """Add the time since the last mark to `part`."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    @property
    def rounded(self) -> dict[str, float]:
        """The seconds by part, rounded to hundredths."""
        return {part: round(seconds, 2) for part, seconds in self.seconds.items()}


STEP_ENDS = {  # hook of Lightning -> the part of a step that ends there
    "on_train_start": "preparation",  # images are read, the network is built, a checkpoint is loaded
    "on_train_batch_start": "data",
    "on_before_backward": "forward",
    "on_after_backward": "backward",
    "on_train_batch_end": "optimizer",
    "on_validation_start": "other",  # Lightning's own work since the step
    "on_validation_end": "validation",
}


class Mark(Callback):
    """Marks a part of the run that ends at a hook: after a step, the work of the callbacks since the mark before."""

    def __init__(self, spent: Spent, part: str, hook: str = "on_train_batch_end"):
        setattr(self, hook, lambda *_, **__: spent.mark(part))


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far in bytes, of the GPU's tensors or, without a CUDA GPU, of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
