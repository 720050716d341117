"""The work of `diffusion.sample` and `diffusion.evaluate`, for a trained model or a folder of images."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from diffusion.checkpoint import early
from diffusion.checkpoint.diffusers_folder import weights_file
from diffusion.checkpoint.find import opened, trained
from diffusion.checkpoint.provenance import file_hash
from diffusion.checkpoint.restore import Restored, what_changed
from diffusion.config.build import make
from diffusion.config.inherit import completed
from diffusion.config.schema import AnyStudy, Drawn, Evaluate, Sample
from diffusion.config.validation import check_arguments
from diffusion.console import console, count, quiet_libraries
from diffusion.data import Folder, ImageData
from diffusion.data.folder import common_size
from diffusion.data.module import SAME_DIVISION
from diffusion.data.store import in_threads
from diffusion.errors import UserError
from diffusion.evaluation.devices import choose_device, choose_devices
from diffusion.evaluation.drawing import Drawing, source_of
from diffusion.evaluation.drawn import batches_of
from diffusion.evaluation.frames import SHOWN, Frames
from diffusion.evaluation.guided import guidance_of
from diffusion.evaluation.inherited import completed_by
from diffusion.evaluation.ledger import Ledger
from diffusion.evaluation.likelihood import Likelihood, bits_per_dimension
from diffusion.evaluation.pipeline import Scorer, make_metrics
from diffusion.evaluation.together import Task, draw
from diffusion.files import replace
from diffusion.metric.record import Score
from diffusion.pixels import resolution_of
from diffusion.process.sampler import Sampler
from diffusion.report.formatting import describe
from diffusion.report.images import grid, in_turn, picture_of, save_png
from diffusion.report.scores import print_by_class, print_scores
from diffusion.runs.folder import SCORES, read_scores
from diffusion.runs.record import CONFIG

GRID = 1024  # maximum number of images in a grid
OF_IMAGES = ("edit.json", "interpolation.gif", "trajectory.png", "trajectory.gif")  # written after the images


def draw_samples(settings: Sample, folder: Path) -> None:
    """Write n images to images/*.png, grid.png, images.npz; with `trajectory` also trajectory.png and .gif."""
    quiet_libraries()
    n, batch_size, few = settings.n, settings.batch_size, min(settings.n, SHOWN)
    devices = choose_devices(settings.device, settings.devices, len(batches_of(n, batch_size)))
    restored = opened(settings.ckpt, settings.weights)
    settings = completed_by(settings, restored)
    drawing, denoiser = make_drawing(settings, restored, labels_of(settings)), restored.denoiser
    source = source_of(settings.sampler, settings.guidance, settings.precision)
    drawn = drawing.begin(folder, denoiser, n, batch_size, source)
    frames = Frames(drawing.sampler, denoiser.schedule)
    watch = frames.watch if settings.trajectory and batch_size >= few else None
    draw([Task(drawing, drawn, f"sampling {count(n, 'image')}")], denoiser, devices, folder, watch)
    if settings.trajectory and not frames.pairs:  # the first batch is too small, or drawn before or elsewhere
        drawing(denoiser.to(devices[0]), few, devices[0], few, "redrawing the trajectory", frames.watch)
    images = drawn.images()
    save_images(folder, images, drawing.seed, drawing.conditions(denoiser, n))
    first = images[:GRID]
    shown, columns = in_turn(first, len(settings.labels)) if settings.labels else (first, None)
    save_png(grid(shown, columns, large=True), folder / "grid.png")
    if settings.trajectory:
        frames.save(folder, settings.frames)
    drawn.remove()
    console.print(f"{count(n, 'image')} of step {restored.step} ({restored.weights} weights) in {folder}")
    of_first = f" (the first {GRID:,})" if n > GRID else ""
    more = ", trajectory.png, trajectory.gif" if settings.trajectory else ""
    console.print(f"  images/, grid.png{of_first}, images.npz (uint8, N×H×W×C){more}")
    if settings.labels:
        console.print(f"  rows of grid.png: {', '.join(map(str, settings.labels))}")


def save_images(folder: Path, images: Tensor, seed: int, conditions: Mapping[str, Tensor]) -> None:
    """Write uint8 images (n, C, H, W) to images/*.png, and to images.npz with their seed and conditions (classes).

    images.npz contains uint8 (n, H, W, C). Images of an earlier call in the folder, which images.npz shows, are removed
    first.
    """
    width = len(str(len(images) - 1))
    (folder / "images").mkdir(exist_ok=True)
    if (folder / "images.npz").is_file():
        for name in OF_IMAGES:
            (folder / name).unlink(missing_ok=True)
        for file in (folder / "images").iterdir():
            if re.fullmatch(r"\d+\.png", file.name):
                file.unlink()

    def write(i: int) -> None:
        picture_of(images[i]).save(folder / "images" / f"{i:0{width}d}.png")

    list(in_threads(write, range(len(images)), "writing images"))  # Pillow releases the GIL while it encodes
    given = {name: rows.numpy() for name, rows in conditions.items()}
    arrays: dict[str, Any] = {"images": images.permute(0, 2, 3, 1).numpy(), "seed": seed, **given}
    np.savez_compressed(folder / "images.npz", **arrays)


def labels_of(settings: Drawn) -> int | str | list[int | str] | None:
    """The requested classes. Raises UserError if both `label` and `labels` are given."""
    if settings.label is not None and settings.labels is not None:
        raise UserError("set either label=CLASS for all images, or labels=[CLASS,CLASS] for several classes")
    return settings.label if settings.labels is None else settings.labels


def make_drawing(
    settings: Drawn | Evaluate,
    restored: Restored,
    labels: int | str | list[int | str] | None = None,
    counts: Mapping[str, int] | None = None,
) -> Drawing:
    """Build the `Drawing` of a command's settings for a model.

    Args:
        labels: as for `Drawing`.
        counts: the number of reference images in each class; None: the numbers of training images.

    Raises UserError for settings that do not fit the model.
    """
    sampler = make_sampler(settings.sampler, restored)
    guidance, weak = guidance_of(settings.guidance, restored)
    known = restored.labels if counts is None else counts
    seed, precision = int(settings.seed or 0), settings.precision
    drawing = Drawing(sampler, restored.shape, seed, guidance, weak, known, labels, precision=precision, finite=True)
    drawing.check(restored.denoiser, restored.label_dropout)
    return drawing


def make_sampler(node: dict[str, Any], restored: Restored) -> Sampler:
    """Build the sampler of a configuration. Raises UserError if it does not fit the model's schedule."""
    sampler: Sampler = make(node, "sampler", Sampler)
    sampler.grid(restored.denoiser.schedule, sampler.steps)  # raises if the schedule has fewer steps
    return sampler


def evaluate(settings: Evaluate, folder: Path) -> None:
    """Score a checkpoint's samples, or a folder's images, into scores.json."""
    quiet_libraries()
    if (settings.ckpt is None) == (settings.images is None):
        raise UserError("set either ckpt=CHECKPOINT or images=FOLDER to score")
    if settings.ckpt is not None:
        evaluate_checkpoint(settings, folder)
    elif settings.bits or settings.by_class:
        wrong = "bits: images alone have no likelihood" if settings.bits else "by_class: images alone have no classes"
        raise UserError(f"{wrong}; set ckpt=CHECKPOINT, or remove it")
    else:
        evaluate_images(settings, folder)
    console.print(f"  {folder / SCORES}")


def evaluate_job(settings: Evaluate, folder: Path) -> None:
    """Run `evaluate` as a job of a sweep, unless the job is already complete."""
    if is_complete(settings, folder):
        console.print(f"{folder} is already complete")
    else:
        evaluate(settings, folder)


def is_complete(settings: Evaluate, folder: Path) -> bool:
    """Whether the last scores in `folder` are those of the checkpoint as it is now. (Each sweep job has its folder.)"""
    try:
        scored = [score.source["checkpoint"] for score in read_scores(folder) if "checkpoint" in score.source]
        ckpt = None if settings.ckpt is None else trained(settings.ckpt)
    except UserError:  # what is damaged is set aside when new scores are written
        return False
    if ckpt is None or not scored:
        return False
    return bool(scored[-1] == {"path": str(ckpt), "sha256": file_hash(weights_file(ckpt))})


def evaluate_checkpoint(settings: Evaluate, folder: Path) -> None:
    """Sample and score a checkpoint. The ledger of its run records scores on the test split."""
    choose_device(settings.device)  # raises before the model is loaded
    restored = opened(str(settings.ckpt), settings.weights)
    of_model = restored.source  # hashed before its run saves the file again
    settings = completed_by(settings, restored)
    n, batch_size = int(settings.n or 0), int(settings.batch_size or 1)
    devices = choose_devices(settings.device, settings.devices, len(batches_of(n, batch_size)))
    denoiser = restored.denoiser.to(devices[0])
    ledger = Ledger.of(restored.path)
    if settings.split == "test":
        ledger.check(settings.again)
    scorer = make_scorer(settings, settings.data, n, folder, ledger, devices[0])
    warn_of_other_images(restored, settings.data, scorer.data)
    drawing = make_drawing(settings, restored, counts=counts_of(scorer.data, settings.split, restored))
    labelled = bool(restored.labels) and [*restored.labels] == scorer.data.classes
    if settings.by_class and not labelled:
        raise UserError(
            "by_class=true: needs a model trained with labels, and a reference with the same labels; remove it, or set "
            "data.labels as in training"
        )
    write_configuration(folder, settings.model_dump(mode="json"), restored)
    source = {"seed": drawing.seed, **of_model}
    bits = bits_of(settings, restored, scorer, labelled, devices[0])  # first: they may be refused
    console.print(f"folder: {folder}")
    drawn_by = source_of(settings.sampler, settings.guidance, settings.precision)
    drawn = drawing.begin(folder, denoiser, n, batch_size, drawn_by)
    if left := sum(map(len, drawn.missing())):
        drawing.print_cost(denoiser, left, batch_size, devices[0], devices=len(devices))
    scorer.make_reference()
    draw([Task(drawing, drawn, f"sampling {count(n, 'image')}")], denoiser, devices, folder)
    images = drawn.images()
    drawn_by |= source | drawing.weak_source
    new = score_images(scorer, settings, images, "samples", **drawn_by)
    if settings.by_class:
        of_classes = scorer.by_class(images, drawing.conditions(denoiser, n)["classes"], **drawn_by)
        print_by_class(of_classes)
        new += of_classes
    scorer.write(new + bits)
    drawn.remove()


def bits_of(
    settings: Evaluate, restored: Restored, scorer: Scorer, labelled: bool, device: torch.device
) -> list[Score]:
    """The bits per dimension that the settings ask for, printed; none without `bits`."""
    if not settings.bits:
        return []
    likelihood: Likelihood = make(settings.likelihood, "likelihood")
    protocol = {"likelihood": describe({k: v for k, v in settings.likelihood.items() if k != "variance"})}
    if likelihood.of_schedule:
        protocol["schedule"] = describe(restored.config["schedule"])
    if restored.labels:
        protocol["labels"] = "of the images" if labelled else "none"
    score = bits_per_dimension(
        restored.denoiser, scorer.data, settings.split, settings.bits, int(settings.batch_size or 1), device,
        likelihood, protocol, labelled, seed=settings.seed, **restored.source,
    )  # fmt: skip
    shown = f" [{score.low:.3f}, {score.high:.3f}]" if score.interval else ""
    console.print(f"{score.metric}: {score.value:.3f}{shown}, {score.n} images of {settings.split}")
    return [score]


def counts_of(data: ImageData, split: str, restored: Restored) -> dict[str, int]:
    """The number of reference images in each of the model's classes; of training images if the classes differ."""
    counts = dict(zip(data.classes, data.class_counts(split), strict=True))
    return counts if [*counts] == [*restored.labels] else dict(restored.labels)


def evaluate_images(settings: Evaluate, folder: Path) -> None:
    """Score the images of a folder."""
    device, root = choose_device(settings.device), Path(str(settings.images)).expanduser()
    if (root / "images.npz").is_file() and (root / "images").is_dir():
        raise UserError(f"images={root}: it also holds a grid of the samples; set images={root / 'images'}")
    settings = completed(at_their_size(settings), None)
    write_configuration(folder, settings.model_dump(mode="json"))
    images = folder_images(str(settings.images), settings.data, settings.n)
    scorer = make_scorer(settings, settings.data, len(images), folder, Ledger(folder), device)
    scorer.make_reference()
    scorer.write(score_images(scorer, settings, images, "images", folder=str(settings.images)))


def make_scorer(
    settings: Evaluate | AnyStudy, data: dict[str, Any], n: int, folder: Path, ledger: Ledger, device: torch.device
) -> Scorer:
    """A command's scorer against the data configured by `data`. Raises UserError if it cannot score `n` images."""
    extractor = make(settings.features, "features").to(device)
    module: ImageData = make(data, "data")
    module.setup()
    scorer = Scorer(module, settings.split, extractor, make_metrics(settings.metrics), folder, ledger)
    scorer.check(n, settings.baselines, settings.audit if isinstance(settings, Evaluate) else [])
    return scorer


def score_images(scorer: Scorer, settings: Evaluate, images: Tensor, what: str, **source: Any) -> list[Score]:
    """Score images, with the baselines and the audit that the settings ask for, and print the scores."""
    new = scorer.score(images, what, **source) + scorer.baselines(settings.baselines, len(images))
    print_scores(new)
    return new + scorer.audit(images, settings.audit, what, **source)


def warn_of_other_images(restored: Restored, node: dict[str, Any], data: ImageData) -> None:
    """Warn if `data`, built from `node`, is the training run's data set, but with other images in its splits.

    Either the images have changed since, or another setting of `node` divides them otherwise.
    """
    before, changed = restored.config["data"], what_changed(restored.images, data.keys)
    other = {key for key in {**before, **node} if before.get(key) != node.get(key)}
    if not changed or other & {"_target_", "root"} or (other and SAME_DIVISION.issuperset(other)):
        return  # the same images, another data set, or the same division of images that are decoded otherwise
    had = ", ".join(f"data.{key}={before.get(key)}" for key in sorted(other - SAME_DIVISION))
    console.print(
        f"warning: {changed} are not those of the training{', which had ' * bool(had)}{had}: held-out images may have "
        "been training images"
    )


def write_configuration(folder: Path, chosen: dict[str, Any], restored: Restored | None = None) -> None:
    """Write config.yaml for comparisons: the settings and, of a checkpoint, its step and training recipe.

    In the folder of a training run, the run's own config.yaml is kept.
    """
    if restored is not None:
        chosen |= {"ckpt": str(restored.path), "step": restored.step, "recipe": recipe_of(restored)}
        if chosen.get("data") == restored.config["data"]:
            chosen["data"] = None
    if not (folder / "run.json").is_file():
        replace(folder / CONFIG, yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True))


def recipe_of(restored: Restored) -> Mapping[str, Any]:
    """The configuration of a checkpoint's training. An exported file lacks parts of it, which its run's folder has."""
    try:
        whole = yaml.safe_load((early.run_of(restored.path.resolve()) / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return restored.config
    same = isinstance(whole, dict) and all(whole.get(key) == value for key, value in restored.config.items())
    return whole if same else restored.config


def at_their_size(settings: Evaluate) -> Evaluate:
    """`settings` with the reference in the size of the scored images, unless data or a resolution is chosen."""
    node, root = settings.data, Path(str(settings.images)).expanduser()
    if "_target_" in node or "resolution" in node or not root.is_dir() or (size := common_size(root)) is None:
        return settings  # errors in the folder are reported when it is read
    return settings.model_copy(update={"data": {**node, "resolution": resolution_of(*size)}})


def folder_images(root: str, data: Mapping[str, Any], n: int | None) -> Tensor:
    """`n` images of a folder, or all, decoded as in the configuration `data`; duplicates are included."""
    shape = {key: data[key] for key in ("resolution", "channels") if key in data}
    check_arguments(Folder, shape, "data")
    folder = Folder(root=root, **shape, val=0, test=0, batch_size=1, repeats=True)
    try:
        folder.setup()
    except UserError as error:
        raise UserError(str(error).replace("data.root", "images")) from error
    images = folder.splits["train"].images
    if n is not None and n > len(images):
        raise UserError(
            f"n={n}: {root} has {count(len(images), 'usable image')}; lower n, or remove it to use all of them"
        )
    return images[:n]
