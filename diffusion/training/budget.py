"""A budget of training time that means the same on every machine: reference seconds."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from diffusion.base.console import console
from diffusion.model.network import to_channels_last
from diffusion.model.unet import UNet
from diffusion.training.callbacks import is_due

PASSES, IMAGES, EVERY = 8, 16, 5
REFERENCE: dict[str, Any] = {  # the demo's network
    "channels": [32, 48, 64, 96], "blocks": 1, "attention": [False, False, True, True], "groups": 8,
}  # fmt: skip


class ReferenceBudget(Callback):
    """Ends the training after `seconds` reference seconds, and logs how many are used as train/reference_seconds.

    In a reference second, a fixed network, with the demo's U-Net and batch, passes `PASSES` times forward and backward,
    in float32. One pass is timed after every `EVERY` steps of the training, in the same process, so that whatever makes
    the machine slow makes both slow: after the training times w_i and the times p_i of n passes,

        t = Σ w_i / (PASSES · Σ p_i / n).

    This is exact if the speed changes between the steps, too. On a processor, time is that of the process, so other
    processes only count as far as they take caches and memory. Passes, validations and all that comes before the first
    step and after the last one are not counted. Training is on one thread, since a network gains more by a second one
    than an optimizer.
    """

    def __init__(self, seconds: float):
        self.seconds, self.trained, self.passed, self.passes = seconds, 0.0, 0.0, 0

    @property
    def used(self) -> float:
        """t, in reference seconds."""
        return self.trained * self.passes / (PASSES * self.passed) if self.passes else 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Build the network, without a change of the run's random numbers, and warm it up."""
        self.device, self.threads = pl_module.device, torch.get_num_threads()
        torch.set_num_threads(1)
        with torch.random.fork_rng(devices=[]):  # all is drawn on the CPU
            self.network = UNet(**REFERENCE).to(self.device)
            self.inputs = torch.randn(IMAGES, 3, 32, 32).to(self.device), torch.full((IMAGES,), 500.0).to(self.device)
        to_channels_last(self.network)
        for _ in range(3):
            self.time_pass()
        self.began = self.now()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the step; every `EVERY` steps, time a pass."""
        self.pause()
        if trainer.global_step % EVERY == 0:
            self.passed += self.time_pass()
            self.passes += 1
        if self.used >= self.seconds:
            trainer.should_stop = True
        if is_due(trainer) or trainer.should_stop or trainer.global_step >= pl_module.clock.total:
            pl_module.log("train/reference_seconds", self.used, batch_size=1)
        self.began = self.now()

    def pause(self) -> None:
        """Add the time since the last step or validation."""
        self.trained += self.now() - self.began

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop counting; sanity checks and validations after the last step have nothing to count."""
        self.pause()

    def on_validation_end(self, *_: Any) -> None:
        """Count again."""
        self.began = self.now()

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Say how much of the budget was used; the samples are drawn by all threads."""
        torch.set_num_threads(self.threads)
        step, total = trainer.global_step, int(trainer.lightning_module.clock.total)  # type: ignore[union-attr,arg-type]
        advice = f"; set trainer.max_steps={step}" if step < total else ""
        used = f"{self.used:.0f} of {self.seconds:g} reference seconds"
        console.print(f"budget: {used} were used by step {step} of {total}{advice}")

    def time_pass(self) -> float:
        """The seconds of one pass of the reference network."""
        began = self.now()
        with torch.enable_grad():
            self.network(*self.inputs).sum().backward()
        self.network.zero_grad()
        return self.now() - began

    def now(self) -> float:
        """The time in seconds: of the process, or of a device that has ended all that it was told to do."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def state_dict(self) -> dict[str, float]:
        """What a resumed run goes on with."""
        return {"trained": self.trained, "passed": self.passed, "passes": self.passes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the budget that is used."""
        vars(self).update(state_dict)
