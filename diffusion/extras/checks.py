"""`diffusion doctor --try`: what this machine's device can do, tried by commands, and a page about it for a bug report.

Each command has its own process, so a crash or an endless wait fails only its own check.
"""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

from diffusion.base.console import console, track
from diffusion.base.files import replace
from diffusion.checkpoint import storage
from diffusion.errors import UserError, first_line, shown
from diffusion.extras.card import homeless
from diffusion.report.page import Table
from diffusion.runs.folder import read_metrics
from diffusion.sampling.parallel import choose_device, device_name

Result = tuple[str, str]  # one of the next three, and what was found in one line
PASSED, FAILED, IMPOSSIBLE = "passed", "failed", "not possible here"
HALF, BATCH = 10, 8  # steps, images
LIMIT = 600.0  # seconds for a command: one that waits for a lost process never ends
ERROR = re.compile(r"^(?:error|[\w.]*(?:Error|Exception|Failed)): .*", re.MULTILINE)


class DeviceTrial(NamedTuple):
    """The device to try (cuda, mps or cpu), the number of GPUs, and the folder for all runs."""

    device: str
    gpus: int
    folder: Path

    @property
    def network(self) -> tuple[str, int]:
        """A network of docs/scaling.md with enough work for the device, and the side of its images."""
        return ("unet_tiny", 32) if self.device == "cpu" else ("unet_small", 64)

    def run(self, command: str, name: str, *words: str) -> Path:
        """Run a command into the folder `name`, which is returned. Raises UserError with the command's own error."""
        line = [sys.executable, "-m", "diffusion", command, *words, f"hydra.run.dir={shown(self.folder / name)}"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, check=False)
        if done.returncode:
            said = ERROR.findall(done.stderr) or (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise UserError(f"{said[-1].removeprefix('error: ')} (exit status {done.returncode})")
        return self.folder / name

    def train(self, name: str, *words: str) -> Path:
        """Train for 20 steps, with a checkpoint after 10."""
        network, side = self.network
        return self.run(
            "train", name, "experiment=debug", f"model={network}", f"data.resolution={side}",
            f"data.batch_size={BATCH}", f"trainer.max_steps={2 * HALF}", f"trainer.accelerator={self.device}",
            f"checkpoint.every_n_steps={HALF}", f"trainer.log_every_n_steps={HALF}", "callbacks=throughput",
            "samples.n=0", "score.n=0", *words,
        )  # fmt: skip

    def images(self, name: str, *words: str) -> np.ndarray:
        """Images of the bundled model, (n, H, W, C), in levels from 0 to 255."""
        folder = self.run("sample", name, "ckpt=demo", f"n={BATCH}", *words)
        return np.load(folder / "images.npz")["arr_0"].astype(int)


def speed(run: Path) -> Result:
    """The time of a step, measured over the last 10, and the peak memory of a training."""
    about, metrics = json.loads((run / "run.json").read_text()), read_metrics(run / "metrics.csv")
    rate = metrics["train/images_per_second"].value[-1] / (BATCH * about["devices"])
    return PASSED, f"{1000 / rate:.3g} ms per step ({rate:.3g} per second), at most {1000 * about['peak_gb']:.0f} MB"


def in_float32(trial: DeviceTrial) -> Result:
    """Train a network whose speed and memory on two CPU cores are in docs/scaling.md."""
    network, side = trial.network
    _, found = speed(trial.train("float32"))
    return PASSED, f"{network}, {BATCH} images of {side}×{side}: {found}; docs/scaling.md has those of two CPU cores"


def resumed(trial: DeviceTrial) -> Result:
    """In a new process, train from the checkpoint after 10 steps to 20: the weights are those of 20 steps at once."""
    exact = "trainer.deterministic=true"  # without it, the sums of a GPU have no fixed order
    whole = trial.train("whole", exact)
    again = trial.train("resumed", exact, f"ckpt={shown(storage.numbered(whole / 'checkpoints', HALF))}")
    one, other = (storage.load(storage.numbered(run / "checkpoints", 2 * HALF)) for run in (whole, again))
    pairs = [(part, name) for part in ("state_dict", "current_model_state") for name in one[part]]
    if wrong := [name for part, name in pairs if not torch.equal(one[part][name], other[part][name])]:
        return FAILED, f"{len(wrong)} of {len(pairs)} weights and averages differ, the first of them {wrong[0]}"
    return PASSED, f"all {len(pairs)} weights and averages are equal"


def drawn(trial: DeviceTrial) -> Result:
    """Draw the CPU's images, from the same noise.

    The inputs of products are rounded to numbers of spacing ε, which changes an image, to first order, in proportion
    to ε. From the change d by bfloat16 on the CPU, in levels of 255, follows a bound for the device, which computes in
    TF32 (CUDA) or float32: (d + 1) ε / ε_bfloat16, rounded up, as images are rounded to levels; the 1 is for that of d.
    """
    if trial.device == "cpu":
        return IMPOSSIBLE, "there is no other device to compare with the CPU"
    here, there = trial.images("cpu", "device=cpu"), trial.images("device", f"device={trial.device}")
    rough = trial.images("rough", "device=cpu", "precision=bf16-mixed")
    spacing = 2.0**-10 if trial.device == "cuda" else torch.finfo(torch.float32).eps
    bound = math.ceil((abs(rough - here).max() + 1) * spacing / torch.finfo(torch.bfloat16).eps)
    found = f"pixels differ by at most {(most := abs(there - here).max())} of 255 levels, and rounding allows {bound}"
    return FAILED if most > bound else PASSED, found


def scored(trial: DeviceTrial) -> Result:
    folder = trial.run("evaluate", "scores", "ckpt=demo", f"n={BATCH}", "features=lite0", f"device={trial.device}")
    found = {score["metric"]: score["value"] for score in json.loads((folder / "scores.json").read_text())}
    return PASSED, f"fd_lite0 of {BATCH} samples: {found['fd_lite0']:.4g}"


CHECKS: dict[str, Callable[[DeviceTrial], Result]] = {
    "train in float32, with speed and memory": in_float32,
    "train in bfloat16": lambda trial: speed(trial.train("bfloat16", "trainer.precision=bf16-mixed")),
    "train compiled": lambda trial: speed(trial.train("compiled", "compile=true")) if trial.device != "cpu" else (
        IMPOSSIBLE, "compiling takes minutes on a CPU; a training with compile=true tries it"),
    "train on two devices": lambda trial: speed(trial.train("two", "trainer.devices=2")) if trial.gpus > 1 else (
        IMPOSSIBLE, "there are no two GPUs"),
    "resume bit for bit": resumed, "draw the images of the CPU": drawn, "score samples": scored,
}  # fmt: skip


def attempt(page: Path, installation: Iterable[tuple[str, str, str]]) -> None:
    """Make all checks, and write the page after each. Raises UserError with status 1 if one failed."""
    device, rows = choose_device("auto"), list[tuple[str, str, str]]()
    title = f"# diffusion doctor --try\n\nTried on {device_name(device)}. Attach this page to a report of an error."
    parts = f"## Installation\n\n{Table(('', 'part', 'found'), installation).markdown}"
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trial = DeviceTrial(device.type, torch.cuda.device_count(), Path(folder))
        for name, check in track(CHECKS.items(), "trying", len(CHECKS), "check"):
            try:
                rows.append((name, *check(trial)))
            except Exception as error:  # of any kind: the next checks do not depend on it
                rows.append((name, FAILED, first_line(error)))
            checks = Table(("check", "result", "found"), rows).markdown
            replace(page, homeless(f"{title}\n\n{checks}\n\n{parts}\n"))
            console.print(*rows[-1], sep=": ")
    console.print(f"page: {page}")
    if failed := [name for name, result, _ in rows if result == FAILED]:
        raise UserError(f"failed: {', '.join(failed)}; {page} says why", status=1)
