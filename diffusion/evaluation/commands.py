"""What `diffusion.sample` and `diffusion.evaluate` do with a trained model, or with a folder of images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from diffusion.checkpoint.restore import Restored, restore
from diffusion.config.build import make
from diffusion.config.inherit import completed
from diffusion.config.schema import Evaluate, Sample, Settings
from diffusion.console import console, count, quiet_libraries
from diffusion.data import Folder, ImageData, to_uint8
from diffusion.data.folder import common_side
from diffusion.data.tiles import SMALLEST
from diffusion.errors import UserError, first_line
from diffusion.evaluation.cost import print_cost
from diffusion.evaluation.devices import choose_device
from diffusion.evaluation.generate import generate
from diffusion.evaluation.likelihood import bits_per_dimension
from diffusion.evaluation.memorization import check_audit
from diffusion.evaluation.pipeline import Scorer, check_scoring, describe_sampler, make_metrics
from diffusion.evaluation.test_ledger import TestLedger
from diffusion.files import replace
from diffusion.process.denoiser import Estimate
from diffusion.process.sampler import Sampler
from diffusion.report.images import gif, grid, save_png, strip
from diffusion.report.scores import print_scores

SHOWN = 8  # images of a trajectory
MOST_FRAMES = 100  # of a GIF


def draw_samples(settings: Sample, folder: Path) -> None:
    """n images as PNG files in images/, a grid and an npz; with `trajectory` also the strip of steps and a GIF."""
    quiet_libraries()
    device = choose_device(settings.device)
    restored = restore(settings.ckpt, settings.weights)
    settings = completed(settings, restored.config, restored.path)
    sampler = make_sampler(settings.sampler, restored)
    restored.denoiser.to(device)
    n, seed = settings.n, int(settings.seed or 0)
    frames = Frames(sampler.steps) if settings.trajectory else None
    images = generate(
        restored.denoiser, sampler, n, restored.shape, seed, device, settings.batch_size,
        f"sampling {count(n, 'image')}", None if frames is None else frames.watch,
    )  # fmt: skip
    width = len(str(n - 1))
    (folder / "images").mkdir(exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{i:0{width}d}.png")
    save_png(grid(images, scale=max(1, 64 // restored.shape[-1])), folder / "grid.png")
    np.savez_compressed(folder / "images.npz", images=images.permute(0, 2, 3, 1).numpy(), seed=seed)
    console.print(f"{count(n, 'image')} of step {restored.step} ({restored.weights} weights) in {folder}")
    made = ["images/", "grid.png", "images.npz (uint8, N×H×W×3)"]
    if frames is not None:
        frames.save(folder, settings.frames)
        made += ["trajectory.png", "trajectory.gif"]
    console.print("  " + ", ".join(made))


class Frames:
    """Keeps x and the estimate of x0 of the first images along the denoising steps."""

    def __init__(self, steps: int):
        self.every = max(1, steps // MOST_FRAMES)
        self.steps = steps
        self.noisy: list[Tensor] = []
        self.clean: list[Tensor] = []

    def watch(self, first: int, k: int, x: Tensor, estimate: Estimate) -> None:
        """Keep step k of the first batch."""
        if first == 0 and (k % self.every == 0 or k in (1, self.steps)):
            self.noisy.append(to_uint8(x[:SHOWN]).cpu())
            self.clean.append(to_uint8(estimate.x0[:SHOWN]).cpu())

    def save(self, folder: Path, frames: int) -> None:
        """trajectory.png: x_t from noise to image; trajectory.gif: x_t above the estimate of x0."""
        chosen = torch.linspace(0, len(self.noisy) - 1, min(frames, len(self.noisy))).round().long()
        scale = max(1, 64 // self.noisy[0].shape[-1])
        save_png(strip(torch.stack([self.noisy[i] for i in chosen]), scale), folder / "trajectory.png")
        pairs = zip(self.noisy, self.clean, strict=True)
        gif([grid(torch.cat([x, x0]), columns=len(x), scale=scale) for x, x0 in pairs], folder / "trajectory.gif")


def evaluate(settings: Evaluate, folder: Path) -> None:
    """Scores of a checkpoint's samples, or of a folder's images, in scores.json."""
    quiet_libraries()
    if (settings.ckpt is None) == (settings.images is None):
        raise UserError("give either ckpt=CHECKPOINT or images=FOLDER to score")
    if settings.ckpt is not None:
        evaluate_checkpoint(settings, folder)
    elif settings.bits:
        raise UserError("bits: images alone have no likelihood; give ckpt=CHECKPOINT, or leave bits out")
    else:
        evaluate_images(settings, folder)


def evaluate_checkpoint(settings: Evaluate, folder: Path) -> None:
    """Sample and score; the ledger of the checkpoint's run records what is scored on test."""
    device = choose_device(settings.device)
    restored = restore(str(settings.ckpt), settings.weights)
    settings = completed(settings, restored.config, restored.path)
    n, seed, batch_size = int(settings.n or 0), int(settings.seed or 0), int(settings.batch_size or 1)
    sampler = make_sampler(settings.sampler, restored)
    denoiser = restored.denoiser.to(device)
    ledger = TestLedger.beside(restored.path)
    if settings.split == "test":
        ledger.warn() if settings.again else ledger.refuse()
    scorer = make_scorer(settings, folder, ledger, device, n)
    write_configuration(folder, settings, restored)
    print_cost(denoiser, sampler, n, restored.shape, batch_size, device)
    scorer.make_reference()
    images = generate(denoiser, sampler, n, restored.shape, seed, device, batch_size, f"sampling {count(n, 'image')}")
    weights = restored.source
    source = {"sampler": describe_sampler(settings.sampler), "seed": seed, **weights}
    new = scorer.score(images, **source) + scorer.baselines(settings.baselines, n)
    print_scores(new)
    if settings.audit:
        new.append(scorer.audit(images, settings.audit, **source))
    if settings.bits:
        new.append(
            bits_per_dimension(
                denoiser, scorer.data, settings.split, settings.bits, batch_size, device, seed=seed, **weights
            )
        )
    scorer.write(new)
    console.print(f"  {folder / 'scores.json'}")


def evaluate_images(settings: Evaluate, folder: Path) -> None:
    """Score the images of a folder."""
    device = choose_device(settings.device)
    settings = completed(at_their_size(settings), None)
    images = folder_images(str(settings.images), settings.data["resolution"], settings.n)
    scorer = make_scorer(settings, folder, TestLedger(folder), device, len(images))
    scorer.make_reference()
    source = {"folder": str(settings.images)}
    new = scorer.score(images, "images", **source) + scorer.baselines(settings.baselines, len(images))
    print_scores(new)
    if settings.audit:
        new.append(scorer.audit(images, settings.audit, "images", **source))
    scorer.write(new)
    console.print(f"  {folder / 'scores.json'}")


def make_scorer(settings: Evaluate, folder: Path, ledger: TestLedger, device: torch.device, n: int) -> Scorer:
    """The scorer of an evaluation of `n` images, checked before anything is spent on it."""
    extractor = make(settings.features, "features").to(device)
    data = reference_data(settings.data)
    check_scoring(settings.split, n, settings.baselines, data)
    check_audit(settings.audit, data)
    return Scorer(data, settings.split, extractor, make_metrics(settings.metrics), folder, ledger)


def make_sampler(node: dict[str, Any], restored: Restored) -> Sampler:
    """The sampler that `node` describes, which must fit the model's schedule."""
    sampler = make(node, "sampler")
    if not isinstance(sampler, Sampler):
        raise UserError(f"{restored.path}: its sampler is none; choose one, such as sampler=ddim")
    try:
        sampler.grid(restored.denoiser.schedule, sampler.steps)  # raises where a table cannot give as many steps
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"sampler.grid: not one that gives times ({first_line(error)}); choose another") from error
    return sampler


def write_configuration(folder: Path, settings: Settings, restored: Restored) -> None:
    """config.yaml of what is made with a checkpoint, with its step and its training recipe, for comparisons.

    In the folder of a training run that run's own stays.
    """
    if not (folder / "run.json").is_file():
        chosen = settings.model_dump(mode="json")
        if chosen.get("data") == restored.config["data"]:
            chosen["data"] = None
        kept = {**chosen, "step": restored.step, "recipe": restored.config}
        replace(folder / "config.yaml", yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


def reference_data(node: dict[str, Any]) -> ImageData:
    """The data module of a configuration, set up."""
    data: ImageData = make(node, "data")
    data.prepare_data()
    data.setup()
    return data


def at_their_size(settings: Evaluate) -> Evaluate:
    """`settings` with the reference at the size of the images to score, unless other data or a size is chosen."""
    node = settings.data
    root = Path(str(settings.images)).expanduser()
    if "_target_" in node or "resolution" in node or not root.is_dir() or (side := common_side(root)) is None:
        return settings  # what is wrong with the folder is said when it is read
    return settings.model_copy(update={"data": {**node, "resolution": min(side, SMALLEST)}})


def folder_images(root: str, resolution: int, n: int | None) -> Tensor:
    """`n` images of a folder, or all, decoded as the data module does; equal images count each time."""
    folder = Folder(root=root, resolution=resolution, val=0, test=0, batch_size=1, repeats=True)
    try:
        folder.prepare_data()
        folder.setup()
    except UserError as error:
        raise UserError(str(error).replace("data.root", "images")) from error
    images = folder.splits["train"].images
    if n is not None and n > len(images):
        raise UserError(
            f"n={n}: {root} has {count(len(images), 'usable image')}; ask for no more, or leave n out for all of them"
        )
    return images[:n]
