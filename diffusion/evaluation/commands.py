"""What is done with a trained model: samples, and scores on demand."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from diffusion.checkpoint.restore import Restored, restore
from diffusion.config import inherit as own
from diffusion.config.build import make
from diffusion.console import console, count
from diffusion.data import Folder, ImageData, to_uint8
from diffusion.data.folder import common_side
from diffusion.data.tiles import SMALLEST
from diffusion.errors import UserError, first_line
from diffusion.evaluation import pipeline as scoring
from diffusion.evaluation.cost import say_cost
from diffusion.evaluation.generate import generate
from diffusion.evaluation.likelihood import bits_per_dimension
from diffusion.evaluation.memorization import audit_samples, check
from diffusion.evaluation.test_ledger import LooksAtTest
from diffusion.files import replace
from diffusion.process.denoiser import Estimate
from diffusion.process.sampler import Sampler
from diffusion.report.images import gif, grid, save_png, strip
from diffusion.training.summary import quiet_libraries, say_scores

SHOWN = 8  # images of a trajectory
MOST_FRAMES = 100  # of a GIF


def sample(cfg: DictConfig, folder: Path) -> None:
    """n images as PNG files in images/, a grid and an npz; with `trajectory` also the strip of steps and a GIF."""
    quiet_libraries()
    device = choose_device(cfg.device)
    cfg, restored, sampler = load(cfg, device)
    shape = shape_of(restored)
    frames = Frames(sampler.steps) if cfg.trajectory else None
    images = generate(
        restored.denoiser, sampler, cfg.n, shape, cfg.seed, device, cfg.batch_size, f"sampling {count(cfg.n, 'image')}",
        None if frames is None else frames.watch,
    )  # fmt: skip
    width = len(str(cfg.n - 1))
    (folder / "images").mkdir(exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{i:0{width}d}.png")
    save_png(grid(images, scale=max(1, 64 // shape[-1])), folder / "grid.png")
    np.savez_compressed(folder / "images.npz", images=images.permute(0, 2, 3, 1).numpy(), seed=cfg.seed)
    console.print(f"{count(cfg.n, 'image')} of step {restored.step} ({restored.weights} weights) in {folder}")
    made = ["images/", "grid.png", "images.npz (uint8, N×H×W×3)"]
    if frames is not None:
        frames.save(folder, cfg.frames)
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


def evaluate(cfg: DictConfig, folder: Path) -> None:
    """Fréchet distance and KID of a checkpoint's samples, or of a folder's images, in scores.json."""
    quiet_libraries()
    device = choose_device(cfg.device)
    if (cfg.ckpt is None) == (cfg.images is None):
        raise UserError("give either ckpt=CHECKPOINT or images=FOLDER to score")
    check(cfg.audit)
    if cfg.bits and cfg.ckpt is None:
        raise UserError("bits: images alone have no likelihood; give ckpt=CHECKPOINT, or leave bits out")
    if cfg.ckpt is not None:
        cfg, restored, sampler = load(cfg, device)
    else:
        cfg = own.completed(at_their_size(cfg), None)
    extractor, metrics = make(cfg.features, "features").to(device), scoring.chosen(cfg.metrics)
    if cfg.ckpt is not None:
        looks = LooksAtTest.beside(restored.path)
        if cfg.split == "test":
            looks.warn() if cfg.again else looks.refuse()
        data = reference_data(cfg.data)
        scoring.check(cfg.split, cfg.n, cfg.yardsticks, data)
        check(cfg.audit, data)
        keep_configuration(folder, cfg, restored)
        say_cost(restored.denoiser, sampler, cfg.n, shape_of(restored), cfg.batch_size, device)
        against = scoring.reference(data, cfg.split, extractor, metrics)
        images = generate(
            restored.denoiser, sampler, cfg.n, shape_of(restored), cfg.seed, device, cfg.batch_size,
            f"sampling {count(cfg.n, 'image')}",
        )  # fmt: skip
        what: dict[str, Any] = {
            "what": "samples",
            "sampler": scoring.describe_sampler(cfg.sampler),
            "seed": cfg.seed,
            **restored.told,
        }
    else:
        images = folder_images(cfg.images, cfg.data.resolution, cfg.n)
        data = reference_data(cfg.data)
        scoring.check(cfg.split, len(images), cfg.yardsticks, data)
        check(cfg.audit, data)
        against = scoring.reference(data, cfg.split, extractor, metrics)
        what = {"what": "images", "folder": str(cfg.images)}
    new = scoring.score_samples(images, extractor, against, metrics=metrics, **what)
    new += scoring.yardsticks(cfg.yardsticks, data, len(images), extractor, against, metrics)
    say_scores(new)
    if cfg.audit:
        new += audit_samples(images, data, cfg.audit, extractor, folder, **what)
    if cfg.bits and cfg.ckpt is not None:
        told = {key: value for key, value in what.items() if key != "sampler"}
        new += bits_per_dimension(restored.denoiser, data, cfg.split, cfg.bits, cfg.batch_size, device, **told)
    if cfg.ckpt is not None:
        new = looks.add(new)
    console.print(f"  {scoring.append(folder, new)}")


def keep_configuration(folder: Path, cfg: DictConfig, restored: Restored) -> None:
    """config.yaml of what was made with a checkpoint, whose step and training recipe it has too, for comparisons.

    In the folder of a training run that run's own stays.
    """
    if not (folder / "run.json").is_file():
        chosen = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
        if "data" in chosen and chosen.data == restored.config["data"]:
            chosen.data = None
        kept = OmegaConf.merge(chosen, {"step": restored.step, "recipe": restored.config})
        replace(folder / "config.yaml", OmegaConf.to_yaml(kept))


def reference_data(node: Any) -> ImageData:
    """The data module of a configuration, ready."""
    data: ImageData = make(node, "data")
    data.prepare_data()
    data.setup()
    return data


def at_their_size(cfg: DictConfig) -> DictConfig:
    """`cfg` with the reference at the size of the images to score, where no other data or size is chosen."""
    node = cfg.data
    root = Path(cfg.images).expanduser()
    if "_target_" in node or "resolution" in node or not root.is_dir() or (side := common_side(root)) is None:
        return cfg  # what is wrong with the folder is said when it is read
    return OmegaConf.merge(cfg, {"data": {"resolution": min(side, SMALLEST)}})  # type: ignore[return-value]


def folder_images(root: str, resolution: int, n: int | None) -> Tensor:
    """`n` images of a folder, or all, as the data module decodes them; a generator's repeats count."""
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


def load(cfg: DictConfig, device: torch.device) -> tuple[DictConfig, Restored, Sampler]:
    """The configuration with the run's own, the checkpoint's denoiser on the device, and the sampler, which fits it."""
    restored = restore(cfg.ckpt, cfg.weights)
    cfg = own.completed(cfg, restored.config, restored.path)
    sampler = make(cfg.sampler, "sampler")
    if not isinstance(sampler, Sampler):
        raise UserError(f"{restored.path}: its sampler is none; choose one, such as sampler=ddim")
    try:
        sampler.grid(restored.denoiser.schedule, sampler.steps)  # raises where the table cannot give as many steps
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"sampler.grid: not one that gives times ({first_line(error)}); choose another") from error
    restored.denoiser.to(device)
    return cfg, restored, sampler


def shape_of(restored: Restored) -> tuple[int, int, int]:
    """(C, H, W) of the images that a checkpoint was trained on."""
    side = int(restored.config["data"]["resolution"])
    return int(restored.config["model"].get("in_channels", 3)), side, side


def choose_device(name: str) -> torch.device:
    """`auto` is the best there is; a device asked for by name must be there."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, found in present.items() if found))
    kind, _, number = name.partition(":")
    if not present.get(kind, False) or (number and not number.isdecimal()):
        raise UserError(
            f"device={name}: not on this machine; use one of auto, {', '.join(k for k in present if present[k])}"
        )
    if kind == "cuda" and int(number or 0) >= (there := torch.cuda.device_count()):
        raise UserError(
            f"device={name}: this machine has {count(there, 'GPU')}, which count from 0; use device=cuda:{there - 1}"
        )
    return torch.device(name)
