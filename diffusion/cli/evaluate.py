"""Score a trained model, or a folder of images, against real images.

diffusion evaluate ckpt=RUN split=val                           score a run again
diffusion evaluate ckpt=… n=2048 sampler.steps=100              more samples, more steps
diffusion evaluate images=FOLDER split=test                     images from any source, e.g. SAMPLES/images, FILE.npz
diffusion evaluate ckpt=… reference=STATS.npz                   against published statistics (mu, sigma), or images
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion.config.schema import Evaluate
from diffusion.errors import UserError, given_as
from diffusion.runs.command import Command
from diffusion.runs.launch import Launch

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion.config.inherit import Change
    from diffusion.metric.record import Score
    from diffusion.scoring.pipeline import Scorer
    from diffusion.scoring.request import ScoreRequest


def evaluate(settings: Evaluate, launch: Launch) -> None:
    """Score a checkpoint's samples, or a folder's images, into scores.json.

    A job of a sweep does so unless its folder has scores of the checkpoint as it is now.
    """
    from diffusion.base.console import console
    from diffusion.checkpoint.find import trained
    from diffusion.checkpoint.restore import file_hash
    from diffusion.findings.verdict import verdict
    from diffusion.runs.folder import SCORES, Run, read_scores

    folder = launch.folder
    if launch.job and settings.ckpt:
        scored = [score.source["checkpoint"]["sha256"] for score in read_scores(folder) if "checkpoint" in score.source]
        if file_hash(trained(settings.ckpt)) in scored[-1:]:
            console.print(f"{folder} is already complete")
            return
    if (settings.ckpt is None) == (settings.images is None):
        raise UserError("set either ckpt=CHECKPOINT or images=FOLDER to score")
    work = evaluate_model if settings.images is None else evaluate_images
    work(settings, folder, launch.changes)
    console.print(f"scores: {folder / SCORES}\n{verdict(Run(folder), 'complete')}")


def evaluate_model(settings: Evaluate, folder: Path, changes: "Sequence[Change]") -> None:
    """Score the samples of a model. Scores on the test split are recorded in the folder of its run."""
    from diffusion.base.console import console
    from diffusion.library.files import run_of, write_configuration
    from diffusion.library.opening import opened_model
    from diffusion.report.tables import class_table, print_scores
    from diffusion.sampling.parallel import draw_samples, remove
    from diffusion.sampling.request import Request
    from diffusion.scoring.classes import check_classes, counts_of, score_classes
    from diffusion.scoring.likelihood import bits_per_dimension
    from diffusion.scoring.request import ScoreRequest

    settings, model, devices = opened_model(settings, changes)
    restored, of_model = model.restored, model.restored.source  # hashed before its run saves the file again
    n, batch_size, split = settings.n or 0, settings.batch_size or 1, settings.split
    request = ScoreRequest.of(settings)
    scorer = request.scorer(n, folder, run_of(restored, folder), devices[0], restored)
    if settings.by_class:
        check_classes(scorer, restored)
    how = Request.of(settings, data=scorer.data, counts=counts_of(scorer.data, split, restored))
    drawing = how.drawing(restored)
    write_configuration(folder, settings, restored)
    new = [bits_per_dimension(restored, settings, scorer.data, devices[0])] if settings.bits else []
    console.print(f"folder: {folder}")
    source = drawing.source(settings.sampler, settings.guidance)
    images = draw_samples(drawing, source, n, batch_size, restored.denoiser, devices, folder)
    source |= of_model
    new += scored(scorer, request, images, "samples", **source)
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


def evaluate_images(settings: Evaluate, folder: Path, changes: "Sequence[Change]") -> None:
    """Score the images of a folder or an archive, against a reference in their size unless data sets another one."""
    from diffusion.base.console import quiet_libraries
    from diffusion.base.pixels import resolution_of
    from diffusion.config.inherit import of_recipe
    from diffusion.data.folder import common_size
    from diffusion.library.files import write_configuration
    from diffusion.library.opening import completed
    from diffusion.sampling.parallel import choose_device
    from diffusion.scoring.request import ScoreRequest, reader_of

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
    images, request = reader.splits["train"].images[: settings.n], ScoreRequest.of(settings)
    scorer = request.scorer(len(images), folder, folder, device)
    scorer.write(scored(scorer, request, images, "images", folder=str(settings.images)))


def scored(scorer: "Scorer", request: "ScoreRequest", images: "Tensor", what: str, **source: Any) -> "list[Score]":
    """Score images with all that the request asks for, and print the scores."""
    from diffusion.report.figures import draw_judged
    from diffusion.report.tables import print_scores

    new = scorer.score(images, what, **source) + scorer.baselines(request.baselines, len(images))
    print_scores(new)
    draw_judged(scorer.judge(images), scorer.folder)
    return new + (scorer.audit(images, what, **source) if request.audit else [])


main = Command("evaluate", Evaluate, __doc__, "diffusion.cli.evaluate.evaluate")
