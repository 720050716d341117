"""`diffusion evaluate`: the scores of a trained model or of a folder of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from torch import Tensor

from diffusion.base import files
from diffusion.base.console import console, quiet_libraries
from diffusion.base.pixels import resolution_of
from diffusion.checkpoint.find import BUNDLED, run_folder, trained
from diffusion.checkpoint.restore import Restored, file_hash, what_changed
from diffusion.config.build import make
from diffusion.config.inherit import Change, of_recipe
from diffusion.config.schema import AnyStudy, Evaluate, Settings
from diffusion.data import ImageData
from diffusion.data.folder import Collection, common_size
from diffusion.errors import UserError, given_as, refusing
from diffusion.metric import record
from diffusion.metric.estimate import PairwiseMetric, RealSet
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.score import reference_of, statistics_of
from diffusion.report.classes import class_table
from diffusion.report.scores import print_scores
from diffusion.report.verdict import verdict
from diffusion.runs.folder import SCORES, Run, read_scores
from diffusion.runs.launch import Launch
from diffusion.runs.record import CONFIG
from diffusion.sampling.given import condition_of
from diffusion.sampling.parallel import choose_device, remove
from diffusion.scoring.classes import check_classes, score_classes
from diffusion.scoring.likelihood import bits_per_dimension, has_classes_of
from diffusion.scoring.pipeline import Scorer, check_test, make_metrics
from diffusion.tasks.opening import completed, opened_model, options_of
from diffusion.tasks.sample import draw_all


def evaluate(settings: Evaluate, launch: Launch) -> None:
    """Score a checkpoint's samples, or a folder's images, into scores.json.

    A job of a sweep does so unless its folder has scores of the checkpoint as it is now.
    """
    folder = launch.folder
    if (settings.ckpt is None) == (settings.images is None):
        raise UserError("set either ckpt=CHECKPOINT or images=FOLDER to score")
    if launch.job and settings.ckpt:
        scored = [score.source["checkpoint"]["sha256"] for score in read_scores(folder) if "checkpoint" in score.source]
        if file_hash(trained(settings.ckpt)) in scored[-1:]:
            console.print(f"{folder} is already complete")
            return
    work = evaluate_checkpoint if settings.images is None else evaluate_images
    work(settings, folder, launch.changes)
    console.print(f"scores: {folder / SCORES}\n{verdict(Run(folder), 'complete')}")


def evaluate_checkpoint(settings: Evaluate, folder: Path, changes: Sequence[Change]) -> None:
    """Sample and score a checkpoint. Scores on the test split are recorded in the folder of its run."""
    settings, model, devices = opened_model(settings, changes)
    restored, of_model = model.restored, model.restored.source  # hashed before its run saves the file again
    scorer = make_scorer(settings, settings.n or 0, folder, devices[0], restored)
    if settings.by_class:
        check_classes(scorer, restored)
    own = {"data": scorer.data, "split": settings.split, "counts": counts_of(scorer.data, settings.split, restored)}
    drawing = model.drawing(**options_of(settings) | own)
    write_configuration(folder, settings, restored)
    bits = [bits_per_dimension(restored, settings, scorer.data, devices[0])] if settings.bits else []
    console.print(f"folder: {folder}")
    images = draw_all(drawing, settings, restored, devices, folder)
    source = drawing.source(settings.sampler, settings.guidance) | of_model
    new = score_images(scorer, settings, images, "samples", **source) + bits
    if found := scorer.ensembles(images, drawing.given, source):
        print_scores(found)
        new += found
    if settings.by_class:
        classes = drawing.conditions(restored.denoiser, len(images))["classes"]
        new += (found := score_classes(scorer, images, classes, **source))
        if table := class_table(found):
            table.print(console)
    scorer.write(new)
    remove(folder)


def evaluate_images(settings: Evaluate, folder: Path, changes: Sequence[Change]) -> None:
    """Score the images of a folder or an archive, against a reference in their size unless data sets another one."""
    if settings.bits:
        raise UserError("bits: images alone have no likelihood; set ckpt=CHECKPOINT")
    if settings.by_class:
        raise UserError("by_class=true: the classes of images alone are not known; set ckpt=CHECKPOINT")
    quiet_libraries()
    device, path = choose_device(settings.device), str(settings.images)
    with given_as("images", "data.root", "data.path"):
        if size := common_size(reader_of(path, {"resolution": 1}).source()):
            reference = {**of_recipe("data", {}), "resolution": resolution_of(*size)}
            settings = settings.model_copy(update={"data": reference})
        settings = completed(settings, None, changes)
        reader = reader_of(path, settings.data or {})
        reader.setup()
    write_configuration(folder, settings)
    images = reader.splits["train"].images[: settings.n]
    scorer = make_scorer(settings, len(images), folder, device)
    scorer.write(score_images(scorer, settings, images, "images", folder=str(settings.images)))


def reader_of(path: str, data: Mapping[str, Any]) -> Collection:
    """What reads all images of a folder or an archive, in the size and with the channels of `data`."""
    root = Path(path).expanduser()
    root = root / "images" if (root / "images.npz").is_file() else root  # of diffusion sample, beside its grid
    kind, key = ("Folder", "root") if root.is_dir() else ("Archive", "path")
    shape = {key: value for key, value in data.items() if key in ("resolution", "channels")}
    whole = {"_target_": f"diffusion.data.{kind}", key: str(root), "val": 0, "test": 0, "repeats": True}
    return cast(Collection, make(whole | shape, "images"))


def reference_given(path: str, data: Mapping[str, Any], extractor: FeatureExtractor) -> RealSet:
    """The reference of published statistics or, as those of `data`, of the images of a folder or an archive."""
    file = Path(path).expanduser()
    if file.suffix.lower() == ".npz":
        with refusing(f"reference={path}"), np.load(file) as arrays:
            published = "mu" in arrays
        if published:
            return statistics_of(file, extractor)
    with given_as("reference", "data.root", "data.path"):
        (reader := reader_of(path, data)).setup()
    size = reader.kind.protocol(reader.shape)
    return reference_of(reader.splits["train"].images, extractor, file.name, (), size)


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
    reference = reference_given(given, settings.data or {}, extractor) if given else None
    if reference and not len(reference.features):
        metrics = [metric for metric in metrics if not isinstance(metric, PairwiseMetric)]
    data: ImageData = make(settings.data, "data")
    data.condition = condition_of(settings.condition, restored.facts, restored.shape) if restored else None
    if restored and restored.config.get("encoder"):
        data.kind = restored.kind
    if restored or not reference or getattr(settings, "audit", []):
        data.setup()
    scorer = Scorer(data, settings.split, extractor, metrics, folder, run, reference)
    scorer.check(n, baselines_of(settings), getattr(settings, "audit", []))
    trained_on = restored.config["data"] if restored else {}
    own = settings.data or {}
    same = all(str(trained_on.get(key)) == str(own.get(key)) for key in ("_target_", "root", "path", "split"))
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
    """The baselines to score: with `reference` no split_half, and real images only of a model's data."""
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
