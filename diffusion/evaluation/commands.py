"""The work of `diffusion.sample` and `diffusion.evaluate`, for a trained model or a folder of images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from torch import Tensor

from diffusion.checkpoint.find import opened, run_folder, trained
from diffusion.checkpoint.restore import Restored, file_hash, what_changed
from diffusion.config.build import make
from diffusion.config.schema import AnyStudy, Drawn, Edit, Evaluate, FromModel, Sample
from diffusion.console import console, count, quiet_libraries
from diffusion.data import ImageData
from diffusion.data.folder import common_size
from diffusion.data.store import in_threads
from diffusion.errors import UserError
from diffusion.evaluation import ledger
from diffusion.evaluation.drawing import Drawing, batches_of, source_of
from diffusion.evaluation.frames import SHOWN, Frames
from diffusion.evaluation.guided import guidance_of
from diffusion.evaluation.inherited import completed
from diffusion.evaluation.likelihood import bits_per_dimension
from diffusion.evaluation.pipeline import Scorer, make_metrics
from diffusion.evaluation.together import Task, choose_device, choose_devices, draw, remove
from diffusion.files import replace
from diffusion.metric.record import Score
from diffusion.pixels import resolution_of
from diffusion.process.sampler import Sampler
from diffusion.report.images import grid, in_turn, picture_of, save_png
from diffusion.report.scores import describe, print_scores, value_text
from diffusion.runs.folder import SCORES, read_scores
from diffusion.runs.record import CONFIG

GRID = 1024  # maximum number of images in a grid
S = TypeVar("S", bound=Sample | Edit | Evaluate | AnyStudy)


def begin(settings: S) -> tuple[S, Restored, list[torch.device]]:
    """The settings of a command, completed by the run of its model; the model, on the first device; the devices."""
    quiet_libraries()
    restored = opened(str(settings.ckpt), settings.weights)
    settings = completed(settings, restored)
    batches = batches_of(settings.n or 1, settings.batch_size or 1)
    devices = choose_devices(settings.device, 1 if isinstance(settings, Edit) else settings.devices, len(batches))
    restored.denoiser.to(devices[0])
    return settings, restored, devices


def draw_samples(settings: Sample, folder: Path) -> None:
    """Write n images to images/*.png, grid.png, images.npz; with `trajectory` also trajectory.gif."""
    settings, restored, devices = begin(settings)
    drawing, denoiser, n = make_drawing(settings, restored), restored.denoiser, settings.n
    images = draw_all(drawing, settings, restored, devices, folder)
    if settings.trajectory:
        frames, few = Frames(drawing.sampler, denoiser.schedule), min(n, SHOWN)
        drawing(denoiser, few, devices[0], few, "sampling the trajectory", frames.watch)
        frames.save(folder)
    save_images(folder, images, drawing.seed, drawing.conditions(denoiser, n))
    shown, columns = in_turn(images[:GRID], len(settings.labels)) if settings.labels else (images[:GRID], None)
    save_png(grid(shown, columns, large=True), folder / "grid.png")
    remove(folder)
    console.print(f"{count(n, 'image')} of step {restored.step} ({restored.weights} weights) in {folder}")
    of_first = f" (the first {GRID:,})" if n > GRID else ""
    more = ", trajectory.gif" if settings.trajectory else ""
    console.print(f"  images/, grid.png{of_first}, images.npz (uint8, N×H×W×C){more}")
    if settings.labels:
        console.print(f"  rows of grid.png: {', '.join(map(str, settings.labels))}")


def draw_all(
    drawing: Drawing, settings: Sample | Evaluate, restored: Restored, devices: list[torch.device], folder: Path
) -> Tensor:
    """Draw n images, uint8 (n, C, H, W), on all devices; a killed command goes on from those in `folder`."""
    n, batch_size = settings.n or 1, settings.batch_size or 1
    source = source_of(settings.sampler, settings.guidance, settings.precision)
    files = drawing.files(folder, restored.denoiser, n, batch_size, source)
    task = Task(drawing, n, batch_size, files, f"sampling {count(n, 'image')}")
    draw([task], restored.denoiser, devices, folder)
    return task.images(restored.denoiser, devices[0])


def save_images(folder: Path, images: Tensor, seed: int, conditions: Mapping[str, Tensor]) -> None:
    """Write uint8 images (n, C, H, W) to images/*.png, and to images.npz with their seed and conditions (classes).

    images.npz contains uint8 (n, H, W, C). Images of an earlier call in the folder, which has an images.npz, go.
    """
    (folder / "images").mkdir(exist_ok=True)
    for file in (folder / "images").glob("[0-9]*.png") if (folder / "images.npz").is_file() else ():
        file.unlink()
    width = len(str(len(images) - 1))

    def write(i: int) -> None:
        picture_of(images[i]).save(folder / "images" / f"{i:0{width}d}.png")

    list(in_threads(write, range(len(images)), "writing images"))  # Pillow releases the GIL while it encodes
    arrays: dict[str, Any] = {name: rows.numpy() for name, rows in conditions.items()}
    np.savez_compressed(folder / "images.npz", images=images.permute(0, 2, 3, 1).numpy(), seed=seed, **arrays)


def make_drawing(settings: Drawn | Evaluate, restored: Restored, counts: Mapping[str, int] | None = None) -> Drawing:
    """Build the `Drawing` of a command's settings for a model. Raises UserError if they do not fit it.

    Args:
        counts: the number of reference images in each class; None: the numbers of training images.
    """
    label, labels = (None, None) if isinstance(settings, Evaluate) else (settings.label, settings.labels)
    if label is not None and labels is not None:
        raise UserError("set either label=CLASS for all images, or labels=[CLASS,CLASS] for several classes")
    guidance, weak = guidance_of(settings.guidance, restored)
    drawing = Drawing(
        make_sampler(settings.sampler, restored), restored.shape, settings.seed or 0, guidance, weak,
        restored.labels if counts is None else counts, label if labels is None else labels,
        precision=settings.precision, finite=True,
    )  # fmt: skip
    drawing.check(restored.denoiser, restored.label_dropout)
    return drawing


def make_sampler(node: dict[str, Any], restored: Restored) -> Sampler:
    """Build the sampler of a configuration. Raises UserError if it does not fit the model's schedule."""
    sampler: Sampler = make(node, "sampler", Sampler)
    sampler.grid(restored.denoiser.schedule, sampler.steps)  # raises if the schedule has fewer steps
    return sampler


def evaluate(settings: Evaluate, folder: Path) -> None:
    """Score a checkpoint's samples, or a folder's images, into scores.json."""
    if (settings.ckpt is None) == (settings.images is None):
        raise UserError("set either ckpt=CHECKPOINT or images=FOLDER to score")
    if settings.ckpt is not None:
        evaluate_checkpoint(settings, folder)
    elif settings.bits or settings.by_class:
        raise UserError("images alone have neither a likelihood (bits) nor classes (by_class); set ckpt=CHECKPOINT")
    else:
        evaluate_images(settings, folder)
    console.print(f"  {folder / SCORES}")


def evaluate_job(settings: Evaluate, folder: Path) -> None:
    """Run `evaluate` as a job of a sweep, unless its folder has scores of the checkpoint as it is now."""
    ckpt = trained(settings.ckpt) if settings.ckpt else None
    scored = [score.source["checkpoint"]["sha256"] for score in read_scores(folder) if "checkpoint" in score.source]
    if ckpt is not None and file_hash(ckpt) in scored[-1:]:
        console.print(f"{folder} is already complete")
    else:
        evaluate(settings, folder)


def evaluate_checkpoint(settings: Evaluate, folder: Path) -> None:
    """Sample and score a checkpoint. The ledger of its run records scores on the test split."""
    settings, restored, devices = begin(settings)
    of_model, run = restored.source, run_folder(restored.path)  # hashed before its run saves the file again
    if settings.split == "test":
        ledger.check(run, settings.again)
    scorer = make_scorer(settings, settings.n or 0, folder, run, devices[0])
    warn_of_other_images(restored, settings.data, scorer.data)
    labelled = has_classes_of(scorer.data, restored)
    if settings.by_class and not labelled:
        raise UserError(
            "by_class=true: needs a model trained with labels, and a reference with the same labels; remove it, or set "
            "data.labels as in training"
        )
    drawing = make_drawing(settings, restored, counts=counts_of(scorer.data, settings.split, restored))
    write_configuration(folder, settings, restored)
    new = [bits_of(settings, restored, scorer.data, labelled, devices[0])] if settings.bits else []
    console.print(f"folder: {folder}")
    images = draw_all(drawing, settings, restored, devices, folder)
    source = source_of(settings.sampler, settings.guidance, settings.precision)
    source |= {"seed": drawing.seed, **of_model, **drawing.weak_source}
    new = score_images(scorer, settings, images, "samples", **source) + new
    if settings.by_class:
        new += scorer.by_class(images, drawing.conditions(restored.denoiser, len(images))["classes"], **source)
    scorer.write(new)
    remove(folder)


def bits_of(settings: Evaluate, restored: Restored, data: ImageData, labelled: bool, device: torch.device) -> Score:
    """The bits per dimension that the settings ask for, printed."""
    likelihood = make(settings.likelihood, "likelihood")
    protocol = {"likelihood": describe({k: v for k, v in settings.likelihood.items() if k != "variance"})}
    if likelihood.of_schedule:
        protocol["schedule"] = describe(restored.config["schedule"])
    if restored.labels:
        protocol["labels"] = "of the images" if labelled else "none"
    score = bits_per_dimension(
        restored.denoiser, data, settings.split, settings.bits, settings.batch_size or 1, device, likelihood,
        protocol, labelled, seed=settings.seed, **restored.source,
    )  # fmt: skip
    console.print(f"{score.metric}: {value_text(score)}, {score.n} images of {settings.split}")
    return score


def evaluate_images(settings: Evaluate, folder: Path) -> None:
    """Score the images of a folder, against a reference that is read in their size unless data sets another one."""
    quiet_libraries()
    device, root, node = choose_device(settings.device), Path(str(settings.images)).expanduser(), settings.data
    root = root / "images" if (root / "images.npz").is_file() else root  # of diffusion.sample, beside its grid
    if "_target_" not in node and "resolution" not in node and root.is_dir() and (size := common_size(root)):
        settings = settings.model_copy(update={"data": {**node, "resolution": resolution_of(*size)}})
    settings = completed(settings, None)
    write_configuration(folder, settings)
    shape = {key: value for key, value in settings.data.items() if key in ("resolution", "channels")}
    whole = {"_target_": "diffusion.data.Folder", "root": str(root), "val": 0, "test": 0, "repeats": True}
    reader: ImageData = make({**whole, **shape}, "data")
    try:
        reader.setup()
    except UserError as error:
        raise UserError(str(error).replace("data.root", "images")) from error
    images = reader.splits["train"].images[: settings.n]
    if len(images) < (settings.n or 0):
        raise UserError(f"n={settings.n}: {root} has {count(len(images), 'usable image')}; lower n, or remove it")
    scorer = make_scorer(settings, len(images), folder, folder, device)
    scorer.write(score_images(scorer, settings, images, "images", folder=str(settings.images)))


def make_scorer(settings: Evaluate | AnyStudy, n: int, folder: Path, run: Path, device: torch.device) -> Scorer:
    """A command's scorer for the data of its settings. Raises UserError if it cannot score `n` images.

    Args:
        run: the folder of the run, whose ledger counts evaluations on the test split.
    """
    extractor = make(settings.features, "features").to(device)
    data: ImageData = make(settings.data, "data")
    data.setup()
    scorer = Scorer(data, settings.split, extractor, make_metrics(settings.metrics), folder, run)
    scorer.check(n, settings.baselines, settings.audit if isinstance(settings, Evaluate) else [])
    return scorer


def score_images(scorer: Scorer, settings: Evaluate, images: Tensor, what: str, **source: Any) -> list[Score]:
    """Score images, with the baselines and the audit that the settings ask for, and print the scores."""
    new = scorer.score(images, what, **source) + scorer.baselines(settings.baselines, len(images))
    print_scores(new)
    return new + scorer.audit(images, settings.audit, what, **source)


def has_classes_of(data: ImageData, restored: Restored) -> bool:
    """Whether the data has the classes of the model, which has some."""
    return bool(restored.labels) and [*restored.labels] == data.classes


def counts_of(data: ImageData, split: str, restored: Restored) -> dict[str, int]:
    """The number of reference images in each of the model's classes; of training images if the classes differ."""
    same = has_classes_of(data, restored)
    return dict(zip(data.classes, data.class_counts(split), strict=True)) if same else dict(restored.labels)


def warn_of_other_images(restored: Restored, node: Mapping[str, Any], data: ImageData) -> None:
    """Warn if `data`, built from `node`, is the training run's data set, but with other images in its splits."""
    same = all(str(restored.config["data"].get(key)) == str(node.get(key)) for key in ("_target_", "root"))
    if same and (changed := what_changed(restored.images, data.keys)):
        console.print(
            f"warning: {changed} are not those of the training: held-out images may have been training images"
        )


def write_configuration(folder: Path, settings: FromModel, restored: Restored | None = None) -> None:
    """Write config.yaml for comparisons: the settings and, of a checkpoint, its step and training recipe.

    In the folder of a training run, the run's own config.yaml is kept.
    """
    chosen = settings.model_dump(mode="json")
    if restored is not None:
        chosen |= {"ckpt": str(restored.path), "step": restored.step, "recipe": restored.config}
        if chosen.get("data") == restored.config["data"]:
            chosen["data"] = None
    if not (folder / "run.json").is_file():
        replace(folder / CONFIG, yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True))
