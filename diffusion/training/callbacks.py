"""What a run does beside its steps: progress, a forecast, the last validation, pictures, scores, its own record."""

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from rich.progress import Progress, TaskID

import diffusion
from diffusion.console import console, count, duration, progress_bar
from diffusion.evaluation.generate import generate
from diffusion.evaluation.pipeline import append, score_samples
from diffusion.evaluation.test_ledger import LooksAtTest, network_hash
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.reference import ReferenceStatistics
from diffusion.metric.score import Factory, distances
from diffusion.process.sampler import Sampler
from diffusion.report.images import grid, save_png
from diffusion.runs.record import beginning, write_record
from diffusion.status import BEAT
from diffusion.training.ema import average_of
from diffusion.training.module import Diffusion, total_steps
from diffusion.training.signals import poll, together

WARM_UP = 5  # steps before the forecast's clock starts
TIMED = 20  # steps that it times


def log_image(trainer: pl.Trainer, name: str, picture: Image.Image, path: Path) -> None:
    """Show a picture in the dashboards that a run has; `path` is the file where it lies already."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
            shaped = pixels.reshape(picture.height, picture.width, 3)
            logger.experiment.add_image(name, shaped, trainer.global_step, dataformats="HWC")


class averaged_weights:
    """Within: the module holds its averaged weights (where there are any) and is in evaluation mode."""

    def __init__(self, trainer: pl.Trainer, module: Diffusion):
        self.module = module
        self.ema = average_of(trainer)

    def __enter__(self) -> None:
        self.module.eval()
        if self.ema is not None:
            self.ema.swap(self.module)

    def __exit__(self, *_: Any) -> None:
        if self.ema is not None:
            self.ema.swap(self.module)
        self.module.train()


class RunProgress(ProgressBar):
    """One bar for the whole run: step of all steps, loss, rate, time left. A line for every validation."""

    def __init__(self) -> None:
        super().__init__()
        self.progress: Progress | None = None
        self.task: TaskID | None = None

    def disable(self) -> None:
        """Lightning calls this on every process but the first."""
        self.disabled = True

    disabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar from the step where training starts."""
        if self.disabled:
            return
        self.start = trainer.global_step
        self.began = time.monotonic()
        self.progress = progress_bar()
        self.progress.start()
        total = total_steps(trainer)
        self.task = self.progress.add_task("training", total=total, completed=self.start, unit="step", note="")

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Move the bar; the loss is read when it is logged, so that a GPU is not waited for at every step."""
        if self.progress is None or self.task is None:
            return
        self.progress.update(self.task, completed=trainer.global_step)
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            loss = trainer.logged_metrics.get("train/loss")
            if loss is not None:
                self.progress.update(self.task, note=f"loss {float(loss):.4f} · epoch {trainer.current_epoch + 1}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the validation's figures."""
        if self.disabled or trainer.sanity_checking:
            return
        logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
        if "val/mse" not in logged:
            return
        rate = (trainer.global_step - self.start) / max(1e-9, time.monotonic() - self.began)
        raw = f" (raw weights {logged['val/mse_raw']:.5f})" if "val/mse_raw" in logged else ""
        console.print(
            f"epoch {trainer.current_epoch + 1:4d} · step {trainer.global_step:6d} · "
            f"val mse {logged['val/mse']:.5f}{raw} · train mse {logged['fit/mse']:.5f} · "
            f"gap {logged['gap/mse']:+.5f} · {rate:.2f} steps/s"
        )

    def stop(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it ended."""
        self.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self.stop()


class Forecast(Callback):
    """After the first steps, how long the run will take in all."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Time `TIMED` steps after `WARM_UP` and say what all of them will take."""
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen == WARM_UP:
            self.began, self.first = self._now(pl_module), trainer.global_step
        if self.seen != WARM_UP + TIMED or not trainer.is_global_zero:
            return
        steps = trainer.global_step - self.first
        if steps == 0:
            return
        left = total_steps(trainer) - trainer.global_step
        seconds = (self._now(pl_module) - self.began) / steps * left
        console.print(
            f"{count(left, 'step')} to go: about {duration(seconds)} of training on {device_name(pl_module.device)}"
        )
        if pl_module.device.type == "cpu" and seconds > 3600:
            console.print("that is long for a CPU; experiment=demo trains a small model in a few minutes")

    @staticmethod
    def _now(module: pl.LightningModule) -> float:
        if module.device.type != "cpu":
            getattr(torch, module.device.type).synchronize()
        return time.monotonic()


class ValidateAtEnd(Callback):
    """The last step is validated too, wherever in an epoch it falls and however seldom the others are."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The run's last step is known now; a run that is resumed in its last validation is there already."""
        self.last = total_steps(trainer)
        if self.reached(trainer) and trainer.check_val_every_n_epoch is not None:
            trainer.check_val_every_n_epoch = 1

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """At the last step, which may lie within an epoch, ask Lightning to stop: it validates before it does."""
        if self.reached(trainer):
            if trainer.check_val_every_n_epoch is not None:
                trainer.check_val_every_n_epoch = 1
            trainer.should_stop = True

    def reached(self, trainer: pl.Trainer) -> bool:
        """At the last step, or the last batch: where steps were left out there are fewer."""
        is_last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        return trainer.global_step >= self.last or (is_last and trainer.current_epoch + 1 == trainer.max_epochs)


class SampleGrid(Callback):
    """Every N epochs, a grid of samples from the same noise: samples/step-00001000.png, and in the dashboards."""

    def __init__(
        self, sampler: Sampler, n: int, every_n_epochs: int, shape: tuple[int, int, int], seed: int, folder: Path
    ):
        self.sampler, self.n, self.every, self.shape, self.seed = sampler, n, every_n_epochs, shape, seed
        self.folder = folder / "samples"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample with the averaged weights, on the first process."""
        assert isinstance(pl_module, Diffusion)
        if (trainer.current_epoch + 1) % self.every:
            return
        with together(trainer):
            if trainer.is_global_zero:
                with averaged_weights(trainer, pl_module):
                    images = generate(
                        pl_module.denoiser, self.sampler, self.n, self.shape, self.seed, pl_module.device, watch=poll
                    )
                picture = grid(images)
                path = save_png(picture, self.folder / f"step-{trainer.global_step:08d}.png")
                log_image(trainer, "samples", picture, path)


class ScoreSamples(Callback):
    """Every N epochs, the distances of `n` samples to the reference, as `metrics` has them; logged and in scores.json.

    Against the test split every one of them is a look at it, which is said at the start and noted in test.json.
    """

    def __init__(
        self,
        sampler: Sampler,
        n: int,
        every_n_epochs: int,
        shape: tuple[int, int, int],
        seed: int,
        folder: Path,
        extractor: FeatureExtractor,
        reference: Callable[[FeatureExtractor], ReferenceStatistics],
        metrics: Sequence[Factory],
        protocol: dict[str, Any],
    ):
        self.sampler, self.n, self.every, self.shape, self.seed = sampler, n, every_n_epochs, shape, seed
        self.folder, self.extractor, self.reference, self.protocol = folder, extractor, reference, protocol
        self.metrics = distances(metrics)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The reference, made on the run's device; warn of looking at the test split."""
        self.against = self.reference(self.extractor.to(pl_module.device))
        if self.against.name == "test" and trainer.is_global_zero:
            console.print(
                "warning: score.every_n_epochs with score.split=test scores the test split again and again: of several "
                "test scores only the first is honest; use score.split=val, and test once, when the choices are made"
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample with the averaged weights and score."""
        assert isinstance(pl_module, Diffusion)
        if (trainer.current_epoch + 1) % self.every:
            return
        share = trainer.global_rank, trainer.world_size
        with together(trainer), averaged_weights(trainer, pl_module):
            own = network_hash(pl_module.denoiser.network)
            images = generate(
                pl_module.denoiser, self.sampler, self.n, self.shape, self.seed, pl_module.device, watch=poll,
                share=share,
            )  # fmt: skip
        # Each process scores its share, and gets the score of all.
        new = score_samples(
            images, self.extractor, self.against, metrics=self.metrics, step=trainer.global_step, network_hash=own,
            **self.protocol,
        )  # fmt: skip
        if not trainer.is_global_zero:
            return
        append(self.folder, LooksAtTest(self.folder).add(new))
        last = trainer.global_step - 1  # loggers count from 0: beside the loss and the validation of the last step
        for logger in trainer.loggers:
            logger.log_metrics({f"{self.against.name}/{r['metric']}": r["value"] for r in new}, last)


class RunRecord(Callback):
    """run.json: what the run is, how long it took, and whether it ended well."""

    def __init__(self, folder: Path, images: dict[str, int]):
        self.folder = folder
        self.began = time.time()
        self.info: dict[str, Any] = beginning() | {
            "host_cores": os.cpu_count(),
            "images": images,
            "versions": {
                "diffusion": diffusion.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "lightning": lightning.__version__,
            },
        }
        self.ended = threading.Event()
        self.write()
        rank_zero_only(threading.Thread(target=self._beat, daemon=True).start)()

    def _beat(self) -> None:
        """Touch the file, in whatever phase the run is, so that `diffusion.status` sees that it lives."""
        while not self.ended.wait(BEAT):
            with suppress(OSError):
                os.utime(self.folder / "run.json")

    @rank_zero_only
    def write(self, **more: Any) -> None:
        """Update the record and the file."""
        self.written = time.monotonic()
        self.info |= more | {"seconds": round(time.time() - self.began, 1)}
        write_record(self.folder, self.info)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The device and the size of the network are known now."""
        if trainer.is_global_zero:
            parameters = sum(p.numel() for p in pl_module.parameters())
            self.write(
                device=device_name(pl_module.device), devices=trainer.world_size, parameters=parameters,
                precision=str(trainer.precision), total_steps=total_steps(trainer),
            )  # fmt: skip

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """How far the run is, also within a long epoch."""
        if trainer.is_global_zero and time.monotonic() - self.written > BEAT:
            self.write(steps=trainer.global_step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """How far the run is."""
        if trainer.is_global_zero:
            self.write(steps=trainer.global_step, epochs=trainer.current_epoch + 1)

    def finish(self, state: str, **more: Any) -> None:
        """`complete`, `interrupted` or `failed`."""
        self.ended.set()
        self.write(state=state, finished=datetime.now().astimezone().isoformat(timespec="seconds"), **more)


def device_name(device: torch.device) -> str:
    """`NVIDIA H100`, `cpu (2 threads)`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({count(torch.get_num_threads(), 'thread')})" if device.type == "cpu" else device.type
