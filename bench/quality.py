"""The demo's recipe against other libraries' standard training: which draws better images after the same CPU time?

    python bench/quality.py                       # missing trainings, then the table; takes hours: see --cpu-seconds
    python bench/quality.py --only demo --seeds 0 --split val

Each training makes the steps that fit into --cpu-seconds of one core, on the same 2091 bundled tiles of 32×32 in
batches of 16. The time of a step is measured beforehand, with all libraries in turns, so other load on the machine
slows all of them equally. Peers train diffusers' UNet2DModel with the widths of unet_tiny as in diffusers' example, and
denoising-diffusion-pytorch's Unet with the settings of its Trainer, both with a moving average of the weights. Seed 0
tries each peer with both predictions and two learning rates; the best one on the validation tiles is trained with the
other seeds, too. Then each model draws 512 images in 50 network evaluations, which are scored against tiles of
photographs that no model was trained on (fd_lite0). Real training tiles, scored in the same way, are the limit of pure
memorization: the comparison is by the excess over their distance. The demo's models are also sampled with autoguidance
away from their own early checkpoints, which no peer has.

The time of a demo run includes its whole process: startup, guards, a validation and checkpoints; the time of a peer is
its loop alone. A training has one thread. --out keeps the times of the steps and the images of finished trainings, and
the same command continues with the next one.
"""

import argparse
import contextlib
import functools
import io
import itertools
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
import torch.nn.functional as F
from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from ema_pytorch import EMA
from omegaconf import OmegaConf
from rich.table import Table
from torch import Tensor, nn

import diffusion
from diffusion.config.build import make
from diffusion.config.choices import conf_dir
from diffusion.config.composition import choice
from diffusion.console import console
from diffusion.metric.record import Score
from diffusion.report.formatting import plus_minus
from diffusion.report.recipes import mean_over_seeds

SIDE, BATCH, IMAGES, EVALUATIONS = 32, 16, 512, 50
SHORT, LONG = 10, 60  # steps of the two trainings that measure the time of a step
SEEDS = (0, 1, 2)
MODEL = OmegaConf.load(conf_dir() / "model" / "unet_tiny.yaml")
METRIC = "fd_lite0"


@dataclass(frozen=True)
class Entrant:
    """A training: its name, its library, and its function (seed, steps, folder) -> images."""

    name: str
    library: str
    images: Callable[[int, int, Path], Tensor]


def tiles(split: str) -> Tensor:
    """The bundled tiles of a split, uint8 (N, 3, 32, 32)."""
    data = make(choice("data", "landscapes", ["+seed=0"], resolution=SIDE), "data")
    data.prepare_data()
    return data.splits[split].images


def batches(seed: int) -> Iterator[Tensor]:
    """Training tiles in [-1, 1], (16, 3, 32, 32), in random order, each flipped with probability 1/2."""
    images = tiles("train").float() / 127.5 - 1
    order = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(images), generator=order).split(BATCH)[: len(images) // BATCH]:
            x = images[rows]
            yield torch.where(torch.rand(len(x), 1, 1, 1, generator=order) < 0.5, x.flip(3), x)


def train(
    loss: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    average: EMA,
    rate: Callable[[int], float],
    seed: int,
    steps: int,
) -> None:
    """Train a peer.

    Args:
        rate: step -> factor on the learning rate.
    """
    base, images = [group["lr"] for group in optimizer.param_groups], batches(seed)
    for step in range(steps):
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * rate(step)
        optimizer.zero_grad()
        loss(next(images)).backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        average.update()


def by_diffusers(prediction: str, lr: float, seed: int, steps: int) -> Callable[[], Tensor]:
    """Train as diffusers' examples/unconditional_image_generation: AdamW, 500 warmup steps, cosine decay, its EMA."""
    torch.manual_seed(seed)
    network = UNet2DModel(
        sample_size=SIDE,
        block_out_channels=list(MODEL.channels),
        layers_per_block=MODEL.blocks,
        down_block_types=[f"{'Attn' * attend}DownBlock2D" for attend in MODEL.attention],
        up_block_types=[f"{'Attn' * attend}UpBlock2D" for attend in reversed(MODEL.attention)],
        norm_num_groups=MODEL.groups,
        attention_head_dim=MODEL.head_dim,
    )
    kind = {"eps": "epsilon", "v": "v_prediction"}[prediction]
    noising = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type=kind)
    average = EMA(network, beta=0.9999, inv_gamma=1.0, power=0.75, update_after_step=0, update_every=1)

    def loss(x0: Tensor) -> Tensor:
        noise, t = torch.randn_like(x0), torch.randint(0, 1000, (len(x0),))
        target = noise if prediction == "eps" else noising.get_velocity(x0, noise, t)
        return F.mse_loss(network(noising.add_noise(x0, noise, t), t).sample, target)

    def rate(step: int) -> float:
        return min(1.0, step / 500) * 0.5 * (1 + math.cos(math.pi * step / steps))

    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, betas=(0.95, 0.999), weight_decay=1e-6)
    train(loss, optimizer, average, rate, seed, steps)

    def draw() -> Tensor:
        sampling, model = DDIMScheduler.from_config(noising.config), average.ema_model.eval()
        sampling.set_timesteps(EVALUATIONS)
        x = torch.randn(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        for t in sampling.timesteps:
            estimate = torch.cat([model(part, t).sample for part in x.split(64)])
            x = sampling.step(estimate, t, x).prev_sample
        return pixels(x.clamp(-1, 1) / 2 + 0.5)

    return draw


def by_denoising_diffusion_pytorch(prediction: str, lr: float, seed: int, steps: int) -> Callable[[], Tensor]:
    """Train as the library's Trainer: Adam, a constant learning rate, its EMA and noise defaults (sigmoid schedule)."""
    torch.manual_seed(seed)
    unit = math.gcd(*MODEL.channels)  # Unet's widths are integer multiples of `dim`
    multiples = tuple(c // unit for c in MODEL.channels)
    network = Unet(dim=unit, init_dim=MODEL.channels[0], dim_mults=multiples, full_attn=tuple(MODEL.attention))
    objective = {"eps": "pred_noise", "v": "pred_v"}[prediction]
    model = GaussianDiffusion(network, image_size=SIDE, objective=objective, sampling_timesteps=EVALUATIONS)
    average = EMA(model, beta=0.995, update_every=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.99))
    train(lambda x0: model(x0 / 2 + 0.5), optimizer, average, lambda _: 1.0, seed, steps)

    def draw() -> Tensor:
        torch.manual_seed(seed)
        sampler = average.ema_model.eval()
        with contextlib.redirect_stderr(io.StringIO()):  # hides a progress bar per batch
            return pixels(torch.cat([sampler.sample(batch_size=64) for _ in range(IMAGES // 64)]))

    return draw


LIBRARIES = {"diffusers": by_diffusers, "denoising-diffusion-pytorch": by_denoising_diffusion_pytorch}


def run_demo(words: Sequence[str], seed: int, steps: int, folder: Path) -> None:
    """Run `diffusion.train experiment=demo` with a single validation at the end."""
    command = [sys.executable, "-m", "diffusion.train", "experiment=demo", f"seed={seed}", f"trainer.max_steps={steps}"]
    command += ["samples.n=0", "score.n=0", "samples.every_n_epochs=null", "trainer.check_val_every_n_epoch=1000"]
    command += [f"hydra.run.dir={folder}", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def demo_images(folder: Path, seed: int) -> Tensor:
    """Images from the demo's run in a folder, drawn in the same way as the peers' images."""
    how: dict[str, Any] = {"sampler": "ddim", "steps": EVALUATIONS, "guidance": "none"}
    return diffusion.load(folder / "run").sample(IMAGES, seed=seed, progress=False, **how)


def guided_images(folder: Path, seed: int) -> Tensor:
    """Images drawn as the demo draws them: guided away from its own early weights, with two evaluations per step."""
    return diffusion.load(folder / "run").sample(IMAGES, steps=EVALUATIONS // 2, seed=seed, progress=False)


def used() -> float:
    """The CPU time of this process and of the child processes that it has waited for."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def step_costs(words: Sequence[str], rounds: int = 3) -> dict[str, tuple[float, float]]:
    """CPU seconds that each library's training needs besides its steps, and per step: medians over `rounds`.

    All are measured in turns, with a short and a longer training each. For a peer, only the steps count.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folders = (Path(temporary) / str(i) for i in itertools.count())
        trainings: dict[str, Callable[[int], Any]] = {
            "diffusion": lambda steps: run_demo(words, 0, steps, next(folders)),
            **{name: functools.partial(by, "v", 1e-4, 0) for name, by in LIBRARIES.items()},
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in trainings}
        for _ in range(rounds):
            for name, training in trainings.items():
                seconds = []
                for steps in (SHORT, LONG):
                    before = used()
                    training(steps)
                    seconds.append(used() - before)
                each = (seconds[1] - seconds[0]) / (LONG - SHORT)
                found[name].append((seconds[0] - SHORT * each if name == "diffusion" else 0.0, each))
    medians = {name: np.median(costs, axis=0).tolist() for name, costs in found.items()}
    return {name: (beside, each) for name, (beside, each) in medians.items()}


def pixels(unit: Tensor) -> Tensor:
    """[0, 1] -> uint8."""
    return (unit * 255).round().clamp(0, 255).to(torch.uint8)


def peers() -> list[Entrant]:
    """Each peer with both predictions and two learning rates."""
    choices = itertools.product(LIBRARIES, ("eps", "v"), (1e-4, 1e-3))
    return [peer(library, prediction, lr) for library, prediction, lr in choices]


def peer(library: str, prediction: str, lr: float) -> Entrant:
    def images(seed: int, steps: int, folder: Path) -> Tensor:
        draw = LIBRARIES[library](prediction, lr, seed, steps)
        with torch.inference_mode():
            return draw()

    return Entrant(f"{library} {prediction} {lr:g}", library, images)


def demo(words: Sequence[str]) -> Entrant:
    """The demo with some overrides."""

    def images(seed: int, steps: int, folder: Path) -> Tensor:
        run_demo(words, seed, steps, folder / "run")
        return demo_images(folder, seed)

    return Entrant(" ".join(["demo", *words]), "diffusion", images)


def autoguided(trained: Entrant, work: "Work") -> Entrant:
    """The same trainings, sampled with guidance."""

    def images(seed: int, steps: int, folder: Path) -> Tensor:
        work.images(trained, seed)
        return guided_images(work.folder(trained, seed), seed)

    return Entrant(f"{trained.name}, autoguidance", trained.library, images)


class Work:
    """The trainings in a folder, finished or yet to be done.

    Args:
        seconds: CPU seconds of one core for each training.
    """

    def __init__(self, out: Path, seconds: float, words: Sequence[str]):
        self.out, self.seconds = out, seconds
        file = out / f"{'-'.join(['seconds', *words])}.json"
        if not file.is_file():
            out.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(step_costs(words)))
        self.costs: dict[str, tuple[float, float]] = json.loads(file.read_text())

    def steps(self, library: str) -> int:
        """The number of steps that a library makes in `seconds`."""
        beside, each = self.costs[library]
        return int((self.seconds - beside) / each)

    def folder(self, entrant: Entrant, seed: int) -> Path:
        return self.out / f"{entrant.name.replace(', ', '-').replace(' ', '-')}-{self.seconds:g}s-seed{seed}"

    def images(self, entrant: Entrant, seed: int) -> Tensor:
        """The images of one training, uint8 (512, 3, 32, 32); trains first if they are missing."""
        folder = self.folder(entrant, seed)
        file = folder / "images.pt"
        if not file.is_file():
            shutil.rmtree(folder, ignore_errors=True)  # left by a killed training
            folder.mkdir(parents=True)
            images = entrant.images(seed, self.steps(entrant.library), folder)
            torch.save(images, file)
        return torch.load(file, weights_only=True)

    def score(self, entrant: Entrant, seed: int, split: str) -> Score:
        return distance(self.images(entrant, seed), split)


def distance(images: Tensor, split: str) -> Score:
    return diffusion.score(images, "landscapes", split, features="lite0", progress=False)[METRIC]


def mean_text(values: list[float]) -> str:
    """The mean ± half of its 95% interval over seeds."""
    mean = mean_over_seeds(values)
    return plus_minus(mean.mean, mean.half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/quality"))
    parser.add_argument("--cpu-seconds", type=float, default=460, help="seconds of one core for each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--split", default="test", help="split of the last table; peers are chosen on val")
    parser.add_argument("--only", choices=("demo", "peers"), help="train only these")
    parser.add_argument("words", nargs="*", help="overrides of the demo, such as schedule=sigmoid")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = Work(args.out, args.cpu_seconds, args.words)
    for library in work.costs:
        console.print(f"{library}: {work.steps(library):,} steps of {work.costs[library][1]:.3f} s")

    entrants = [] if args.only == "peers" else [demo(args.words), autoguided(demo(args.words), work)]
    if args.only != "demo":
        tried = {entrant: work.score(entrant, args.seeds[0], "val").value for entrant in peers()}
        for entrant, value in tried.items():
            console.print(f"{entrant.name}: {METRIC} {value:.1f} against the validation tiles")
        for library in dict.fromkeys(entrant.library for entrant in tried):
            entrants.append(min((e for e in tried if e.library == library), key=lambda e: tried[e]))

    real = tiles("train")[torch.randperm(2091, generator=torch.Generator().manual_seed(0))[:IMAGES]]
    best = distance(real, args.split).value
    table = Table(
        title=f"{METRIC} of {IMAGES} images against the {args.split} tiles, {args.cpu_seconds:g} CPU seconds each"
    )
    for column in ("training", "seeds", METRIC, "above real tiles", "against the training tiles"):
        table.add_column(column, justify="left" if column == "training" else "right")
    table.add_row("real training tiles", "", f"{best:.1f}", "0", f"{distance(real, 'train').value:.1f}")
    for entrant in entrants:
        values = [work.score(entrant, seed, args.split).value for seed in args.seeds]
        to_train = [work.score(entrant, seed, "train").value for seed in args.seeds]
        excess = mean_text([value - best for value in values])
        table.add_row(entrant.name, str(len(values)), mean_text(values), excess, mean_text(to_train))
    console.print(table)


if __name__ == "__main__":
    main()
