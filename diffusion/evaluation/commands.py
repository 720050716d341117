"""The work of `diffusion sample` and `diffusion evaluate`, for a trained model or a folder of images.

A command's settings are completed by those of the run whose model it uses. `sampler=run`, the default, is the run's
sampler, of which single settings can be overridden: `sampler.steps=20`, `grid@sampler.grid=karras`. The same applies to
guidance, features, metrics and data, and to a number that is null.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from diffusion import files
from diffusion.checkpoint.find import BUNDLED, kept, opened, run_folder, trained
from diffusion.checkpoint.restore import Restored, file_hash, what_changed
from diffusion.config.build import make, validated
from diffusion.config.choices import INHERITED, RUN, composed, nodes
from diffusion.config.schema import SCORED, AnyStudy, Drawn, Edit, Evaluate, Sample, Score, Settings
from diffusion.console import console, count, quiet_libraries
from diffusion.data import ImageData, to_unit
from diffusion.data.folder import Collection, common_size
from diffusion.data.images import in_threads
from diffusion.errors import UserError
from diffusion.evaluation.conditions import Given, condition_of, given_of
from diffusion.evaluation.drawing import Drawing, Frames, filmed, make_guidance
from diffusion.evaluation.likelihood import bits_per_dimension, has_classes_of
from diffusion.evaluation.pipeline import Scorer, check_test, make_metrics
from diffusion.evaluation.together import Task, choose_device, choose_devices, draw, remove
from diffusion.metric import record
from diffusion.metric.estimate import PairwiseMetric
from diffusion.metric.score import statistics_of
from diffusion.pixels import POINTS, grid, in_turn, resolution_of, save_png
from diffusion.process.sampler import Sampler
from diffusion.randomness import seed_for
from diffusion.report.scores import print_scores
from diffusion.report.verdict import verdict
from diffusion.runs.folder import SCORES, Run, read_scores
from diffusion.runs.record import CONFIG

GRID = 1024  # maximum number of images in a grid
CONDITIONS = "conditions.png"  # the pictures that the images of a grid were drawn from
S = TypeVar("S", bound=Settings)
B = TypeVar("B", bound=Sample | Edit | Evaluate | AnyStudy)


def begin(settings: B) -> tuple[B, Restored, list[torch.device]]:
    """The settings of a command, completed by the run of its model; the model, on the first device; the devices."""
    quiet_libraries()
    restored = opened(str(settings.ckpt), settings.weights)
    settings = completed(settings, restored)
    batches = -(-(settings.n or 1) // (settings.batch_size or 1))
    devices = choose_devices(settings.device, 1 if isinstance(settings, Edit) else settings.devices, batches)
    restored.denoiser.to(devices[0])
    return settings, restored, devices


def completed(settings: S, restored: Restored | None, fills: bool = False) -> S:
    """`settings`, completed with the values that they leave to the run of a model.

    Without a model, and for parts that an exported file does not contain, they are the defaults of `diffusion train`.
    Guidance by an earlier step of the run is left out, with a message, if that step has no weights or is not earlier.
    Raises UserError for settings that must not come from a file.

    Args:
        fills: whether part of a picture is filled, for which guidance by an earlier step is too strong, and left out;
            also implied by settings with a `mask` or an `operator`.
    """
    values, recipe = settings.model_dump(), restored.config if restored else {}
    step = restored.facts.get("guidance_step") if restored else None
    if restored and step and values.get("guidance") == {"from": RUN}:
        missing = restored.step <= step or kept(restored.path.parent, step) is None
        if missing or fills or values.get("mask") or values.get("operator"):
            why = "its folder has no such weights" if missing else "too strong for this; guidance=early turns it on"
            console.print(f"drawn without its run's guidance by step {step}: {why}", style="yellow")
            values["guidance"] = None
    if values.get("then"):
        values["condition"] = {"from": RUN}  # what is set is for the other models
    for group in INHERITED:
        changes = dict(values.get(group) or {})
        if changes.pop("from", None) != RUN:
            continue
        inherited = of_run(group, recipe)
        if (group == "features" and inherited not in nodes(group)) or inherited.get("ckpt") is not None:
            raise UserError(
                f"the run's {group} read other weights, and a file may not decide which are read; set {group} "
                "yourself, such as features=clip features.source=FOLDER, or guidance=auto guidance.ckpt=RUN"
            )
        if changes and not inherited:
            raise UserError(f"{group}: the run has none whose settings could change; choose one, such as {group}=…")
        values[group] = merged(inherited, changes)
    guidance = values.get("guidance") or {}
    if restored and isinstance(share := guidance.get("step"), float) and guidance.get("ckpt") is None:
        # the step that the run has kept for its own guidance, or else this fraction of the model's steps
        guidance["step"] = step or max(1, round(share * restored.step))
    score = recipe.get("score") or {}
    numbers = {"seed": recipe.get("seed") or 0, "batch_size": score.get("batch_size") or Score().batch_size}
    if restored:  # of a folder of images, n=null is all
        numbers["n"] = score.get("n") or SCORED
    values |= {key: number for key, number in numbers.items() if key in values and values[key] is None}
    if (values.get("data") or {}).get("seed", 0) is None:  # as in conf/data/landscapes.yaml
        values["data"]["seed"] = values.get("seed") or 0
    return validated(type(settings), values)


def of_run(group: str, recipe: Mapping[str, Any]) -> Any:
    """The node of a group in a run's recipe or, if it has none, the default of `diffusion train`."""
    return (recipe[group] if group in recipe else composed("train")[group]) or {}


def merged(node: Any, changes: Any) -> Any:
    """A node with changes, recursively. A changed node with its own `_target_` replaces that of the run."""
    if not isinstance(node, Mapping) or not isinstance(changes, Mapping) or "_target_" in changes:
        return changes
    return {**node, **{key: merged(node.get(key), value) for key, value in changes.items()}}


def make_given(
    settings: Drawn | Evaluate | AnyStudy, restored: Restored, data: ImageData | None = None
) -> Given | None:
    """The conditions of samples: given by the user, or those of held-out images; None for a model without any.

    Args:
        data: the images, which have been read with the condition; None: they are read.
    """
    condition = condition_of(settings.condition, restored.facts, restored.shape)
    values = settings.given if isinstance(settings, Drawn) else None
    if condition is None:
        if values is not None:
            raise UserError("given: the model was trained without a condition; remove it")
        return None
    if values is not None:
        return given_of(values, condition, restored.shape)
    if data is None:
        data = make(settings.data or {}, "data", ImageData)
        data.condition = condition
        data.setup()
    split = "val" if isinstance(settings, Drawn) else settings.split
    return Given(condition, restored.shape, split, data.splits[split])


def make_drawing(
    settings: Drawn | Evaluate, restored: Restored, counts: Mapping[str, int] | None = None,
    data: ImageData | None = None, given: Given | None = None,
) -> Drawing:  # fmt: skip
    """Build the `Drawing` of a command's settings for a model. Raises UserError if they do not fit it.

    Args:
        counts: the number of reference images in each class; None: the numbers of training images.
        data: see `make_given`.
        given: the conditions, instead of those of the settings.
    """
    labels = settings.labels or settings.label if isinstance(settings, Drawn) else None
    if isinstance(settings, Drawn) and settings.labels and settings.label is not None:
        raise UserError("set label=CLASS for all images, or labels=[CLASS,CLASS] for several classes, not both")
    guidance, worse = make_guidance(settings.guidance, restored)
    sampler, weak = make(settings.sampler, "sampler", Sampler), None if worse is None else worse.denoiser
    given = given or make_given(settings, restored, data)
    drawing = Drawing(
        sampler, restored.shape, settings.seed or 0, guidance, weak, restored.labels if counts is None else counts,
        labels, precision=settings.precision, finite=True, given=given,
    )  # fmt: skip
    drawing.check(restored.denoiser, restored.label_dropout)
    return drawing


def enlarging(asked: Sample, restored: Restored, seed: int) -> list[tuple[Sample, Restored, Drawing]]:
    """The models of `then`, after the model `restored`, each with images of zeros as its condition.

    Raises UserError if the condition of a model is not an image of the model before it, or its classes are others.
    """
    found, labels = [], [*restored.labels]
    for k, ckpt in enumerate(asked.then, start=1):
        before, restored = restored.shape, opened(ckpt, asked.weights)
        own: dict[str, Any] = {"ckpt": ckpt, "then": [], "guidance": {"from": RUN}, "data": {"from": RUN}}
        if not restored.labels:
            own |= {"label": None, "labels": None}
        elif [*restored.labels] != labels:
            raise UserError(f"then={ckpt}: its classes are others than those of the first model; choose another")
        settings = completed(asked.model_copy(update=own), restored)
        condition = condition_of(settings.condition, restored.facts, restored.shape)
        shapes = [*condition.shapes(restored.shape).values()] if condition else []
        if condition is None or shapes != [before]:
            wanted = " and ".join(str([*each]) for each in shapes) or "nothing, as it was trained without a condition"
            raise UserError(f"then={ckpt}: it is given {wanted}; the one before it draws {[*before]}")
        given = Given(condition, restored.shape, "a cascade", named=condition.own(torch.zeros(1, *before)))
        drawing = make_drawing(settings, restored, given=given)
        # with the seed of the first model, its noise would begin with that of the first model
        found.append((settings, restored, replace(drawing, seed=seed_for(seed, "then", k))))
    return found


def draw_samples(settings: Sample, folder: Path) -> None:
    """Write n images to images/*.png, grid.png, images.npz; with `trajectory` also trajectory.gif.

    With `then`, they are those of its last model; grid-1.png, … show those of the models before.
    """
    asked = settings
    settings, restored, devices = begin(settings)
    drawing, drawn = make_drawing(settings, restored), list[Tensor]()
    stages = [(settings, restored, drawing), *enlarging(asked, restored, drawing.seed)]
    for own, restored, drawing in stages:
        if drawn and drawing.given:
            named = drawing.given.condition.own(to_unit(drawn[-1]))
            drawing = replace(drawing, given=replace(drawing.given, named=named))
        drawn.append(draw_all(drawing, own, restored, devices, folder))
    images, denoiser, n = drawn[-1], restored.denoiser, settings.n
    if settings.trajectory:
        frames, few = Frames(drawing.sampler, denoiser.schedule), min(n, filmed(restored.shape[0]))
        drawing(denoiser, few, devices[0], few, "sampling the trajectory", frames.watch)
        frames.save_gif(folder / "trajectory.gif")

    def picture(shown: Tensor) -> Image.Image:
        shown, columns = in_turn(shown, len(settings.labels)) if settings.labels else (shown, None)
        return grid(shown, columns, large=True)

    if (conditions := drawing.pictures(min(n, GRID))) is not None:
        save_png(picture(conditions), folder / CONDITIONS)
    for k, others in enumerate(drawn[:-1], start=1):
        save_png(picture(others[:GRID]), folder / f"grid-{k}.png")
    save_images(folder, images, picture(images[:GRID]), drawing, restored)
    remove(folder)


def draw_all(
    drawing: Drawing, settings: Sample | Evaluate, restored: Restored, devices: list[torch.device], folder: Path
) -> Tensor:
    """Draw n images, uint8 (n, C, H, W), on all devices; a killed command goes on from those in `folder`."""
    n, batch_size = settings.n or 1, settings.batch_size or 1
    source = drawing.source(settings.sampler, settings.guidance)
    files = drawing.files(folder, restored.denoiser, n, batch_size, source)
    task = Task(drawing, n, batch_size, files, f"sampling {count(n, 'image')}")
    draw([task], restored.denoiser, devices, folder)
    return task(restored.denoiser, devices[0])


def save_images(
    folder: Path, images: Tensor, picture: Image.Image, drawing: Drawing, restored: Restored,
    files: Sequence[Image.Image] | None = None,
) -> None:  # fmt: skip
    """Write uint8 images (n, C, H, W) to images/*.png, their picture, and images.npz, with their seed and classes.

    `files`, if given, are written to images/*.png instead. images.npz contains uint8 (n, H, W, C) as arr_0, and
    classes as arr_1, as for OpenAI's evaluator. Images of an earlier call in the folder, which has an images.npz, go.
    """
    n, points = len(images), images.shape[1] == POINTS
    (folder / "images").mkdir(exist_ok=True)
    for file in (folder / "images").glob("[0-9]*.png") if (folder / "images.npz").is_file() else ():
        file.unlink()

    def write(i: int) -> None:
        save_png(files[i] if files else to_pil_image(images[i]), folder / f"images/{i:0{len(str(n - 1))}d}.png")

    list(in_threads(write, range(n * (not points)), "writing images"))  # Pillow releases the GIL while it encodes
    given = drawing.conditions(restored.denoiser, n)
    classes: dict[str, Any] = {"arr_1": given["classes"].numpy()} if given else {}
    np.savez_compressed(folder / "images.npz", images.permute(0, 2, 3, 1).numpy(), seed=drawing.seed, **classes)
    save_png(picture, folder / "grid.png")
    more = f", {CONDITIONS}" * (folder / CONDITIONS).is_file()
    drawing.warn_of_saturated(images)
    console.print(f"{count(n, 'image')} of step {restored.step} ({restored.weights} weights) in {folder}")
    console.print(f"  images/, images.npz ({images.numpy().dtype}, N×H×W×C), grid.png{more}")


def evaluate(settings: Evaluate, folder: Path) -> None:
    """Score a checkpoint's samples, or a folder's images, into scores.json."""
    if (settings.ckpt is None) == (settings.images is None):
        raise UserError("set either ckpt=CHECKPOINT or images=FOLDER to score")
    (evaluate_checkpoint if settings.images is None else evaluate_images)(settings, folder)
    console.print(f"scores: {folder / SCORES}\n{verdict(Run(folder), 'complete')}")


def evaluate_job(settings: Evaluate, folder: Path) -> None:
    """Run `evaluate` as a job of a sweep, unless its folder has scores of the checkpoint as it is now."""
    scored = [score.source["checkpoint"]["sha256"] for score in read_scores(folder) if "checkpoint" in score.source]
    if settings.ckpt and file_hash(trained(settings.ckpt)) in scored[-1:]:
        console.print(f"{folder} is already complete")
    else:
        evaluate(settings, folder)


def evaluate_checkpoint(settings: Evaluate, folder: Path) -> None:
    """Sample and score a checkpoint. Scores on the test split are recorded in the folder of its run."""
    settings, restored, devices = begin(settings)
    of_model = restored.source  # hashed before its run saves the file again
    scorer = make_scorer(settings, settings.n or 0, folder, devices[0], restored)
    if settings.by_class and not has_classes_of(scorer.data, restored):
        raise UserError("by_class: the model and the reference need the same labels (data.labels); remove it")
    drawing = make_drawing(settings, restored, counts_of(scorer.data, settings.split, restored), scorer.data)
    write_configuration(folder, settings, restored)
    bits = [bits_per_dimension(restored, settings, scorer.data, devices[0])] if settings.bits else []
    console.print(f"folder: {folder}")
    images = draw_all(drawing, settings, restored, devices, folder)
    source = drawing.source(settings.sampler, settings.guidance) | of_model
    new = score_images(scorer, settings, images, "samples", **source) + bits
    if settings.by_class:
        new += scorer.by_class(images, drawing.conditions(restored.denoiser, len(images))["classes"], **source)
    scorer.write(new)
    remove(folder)


def evaluate_images(settings: Evaluate, folder: Path) -> None:
    """Score the images of a folder or an archive, against a reference in their size unless data sets another one."""
    if settings.bits or settings.by_class:
        raise UserError("bits, by_class: images alone have neither likelihood nor classes; set ckpt=CHECKPOINT")
    quiet_libraries()
    device, root, node = choose_device(settings.device), Path(str(settings.images)).expanduser(), settings.data
    root = root / "images" if (root / "images.npz").is_file() else root  # of diffusion sample, beside its grid
    kind, key = ("Folder", "root") if root.is_dir() else ("Archive", "path")
    whole = {"_target_": f"diffusion.data.{kind}", key: str(root), "val": 0, "test": 0, "repeats": True}
    try:
        first: Collection = make({**whole, "resolution": 1}, "images")
        if "_target_" not in node and "resolution" not in node and (size := common_size(first.source())):
            settings = settings.model_copy(update={"data": {**node, "resolution": resolution_of(*size)}})
        settings = completed(settings, None)
        shape = {key: value for key, value in settings.data.items() if key in ("resolution", "channels")}
        reader: Collection = make({**whole, **shape}, "images")
        reader.setup()
    except UserError as error:
        raise UserError(str(error).replace(f"data.{key}=", "images=", 1)) from error
    write_configuration(folder, settings)
    images = reader.splits["train"].images[: settings.n]
    scorer = make_scorer(settings, len(images), folder, device)
    scorer.write(score_images(scorer, settings, images, "images", folder=str(settings.images)))


def make_scorer(
    settings: Evaluate | AnyStudy, n: int, folder: Path, device: torch.device, restored: Restored | None = None
) -> Scorer:
    """A command's scorer for the data of its settings, to score images of a trained model or of others.

    Warns of other images in the splits of the model's data. Raises UserError if `n` images cannot be scored, and for a
    second evaluation of the model's run on the test split.
    """
    run = run_folder(restored.path) if restored and BUNDLED not in restored.path.parents else folder
    given, metrics = getattr(settings, "reference", None), make_metrics(settings.metrics)
    if restored and settings.split == "test" and not given:
        check_test(run, getattr(settings, "again", True))  # a study repeats it by itself
    extractor = make(settings.features, "features").to(device)
    statistics = statistics_of(Path(given).expanduser(), extractor) if given else None
    metrics = [metric for metric in metrics if not (statistics and isinstance(metric, PairwiseMetric))]
    data: ImageData = make(settings.data, "data")
    data.condition = condition_of(settings.condition, restored.facts, restored.shape) if restored else None
    if restored or not statistics or getattr(settings, "audit", []):
        data.setup()
    scorer = Scorer(data, settings.split, extractor, metrics, folder, run, statistics)
    scorer.check(n, baselines_of(settings), getattr(settings, "audit", []))
    trained_on = restored.config["data"] if restored else {}
    same = all(str(trained_on.get(key)) == str(settings.data.get(key)) for key in ("_target_", "root", "path", "split"))
    if restored and same and (changed := what_changed(restored.images, data.keys)):
        console.print(f"warning: {changed} are not those of the training, which may have used held-out images")
    return scorer


def score_images(scorer: Scorer, settings: Evaluate, images: Tensor, what: str, **source: Any) -> list[record.Score]:
    """Score images, with the baselines and the audit that the settings ask for, and print the scores."""
    new = scorer.score(images, what, **source) + scorer.baselines(baselines_of(settings), len(images))
    print_scores(new)
    scorer.judge(images)
    return new + (scorer.audit(images, what, **source) if settings.audit else [])


def baselines_of(settings: Evaluate | AnyStudy) -> list[str]:
    """The baselines to score: against published statistics no floor, and real images only of a model's data."""
    possible = ["noise"] + ["real"] * (settings.ckpt is not None)
    return [name for name in settings.baselines if not getattr(settings, "reference", None) or name in possible]


def counts_of(data: ImageData, split: str, restored: Restored) -> dict[str, int]:
    """The number of reference images in each of the model's classes; of training images if the classes differ."""
    same = has_classes_of(data, restored)
    return dict(zip(data.classes, data.class_counts(split), strict=True)) if same else dict(restored.labels)


def write_configuration(folder: Path, settings: Settings, restored: Restored | None = None) -> None:
    """Write config.yaml for comparisons: the settings and, of a checkpoint, its step and training recipe.

    In the folder of a training run, the run's own config.yaml is kept.
    """
    chosen = settings.model_dump(mode="json")
    if restored is not None:
        file = chosen["ckpt"] if BUNDLED in restored.path.parents else str(restored.path)
        chosen |= {"ckpt": file, "step": restored.step, "recipe": restored.config}
        if chosen.get("data") == restored.config["data"]:
            chosen["data"] = None
    if not (folder / "run.json").is_file():
        files.replace(folder / CONFIG, yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True))
