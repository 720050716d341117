"""`diffusion sample`: images of a model, or of a cascade of models, as files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion.base.console import console, count
from diffusion.base.images import in_threads
from diffusion.base.pixels import grid, in_turn, save_png
from diffusion.checkpoint.find import opened
from diffusion.checkpoint.restore import Restored
from diffusion.config.inherit import Change
from diffusion.config.schema import Evaluate, Sample
from diffusion.errors import UserError
from diffusion.library import Model
from diffusion.randomness import seed_for
from diffusion.runs.launch import Launch
from diffusion.sampling.drawing import Drawing, Frames
from diffusion.sampling.given import Given, condition_of
from diffusion.sampling.parallel import Task, draw, remove
from diffusion.tasks.opening import completed, opened_model, options_of

GRID = 1024  # maximum number of images in a grid
CONDITIONS = "conditions.png"  # the pictures that the images of a grid were drawn from


def draw_samples(asked: Sample, launch: Launch) -> None:
    """Write n images to images/*.png, grid.png, images.npz; with `trajectory` also trajectory.gif.

    With `then`, they are those of its last model; grid-1.png, … show those of the models before.
    """
    folder, changes = launch.folder, launch.changes
    first = [each for each in changes if not (asked.then and each.part == "condition")]  # which is for the others
    settings, model, devices = opened_model(asked, first)
    drawing, drawn = model.drawing(**options_of(settings)), list[Tensor]()
    stages = [(settings, model, drawing), *enlarging(asked, changes, model, drawing.seed)]
    for settings, model, drawing in stages:
        if drawn:
            drawing = enlargement(drawing, drawn[-1])
        drawn.append(draw_all(drawing, settings, model.restored, devices, folder))
    images, denoiser, n = drawn[-1], model.denoiser, settings.n
    if settings.trajectory:
        frames, few = Frames(drawing.sampler, denoiser.schedule, drawing.kind), min(n, model.kind.filmed)
        drawing(denoiser, few, devices[0], few, "sampling the trajectory", frames.watch)
        frames.save_gif(folder / "trajectory.gif")

    def arranged(shown: Tensor) -> Image.Image:
        shown, columns = in_turn(shown, len(settings.labels)) if settings.labels else (shown, None)
        return grid(shown, columns, large=True)

    def picture(images: Tensor) -> Image.Image:
        return drawing.kind.legend(arranged(drawing.kind.pictures(images)))

    if (conditions := drawing.pictures(min(n, GRID))) is not None:
        save_png(arranged(conditions), folder / CONDITIONS)
    for k, others in enumerate(drawn[:-1], start=1):
        save_png(picture(others[:GRID]), folder / f"grid-{k}.png")
    named = ", enlarged by ".join(map(str, [asked.ckpt, *asked.then])) if asked.then else ""
    save_images(folder, images, picture(images[:GRID]), drawing, model.restored, named=named)
    remove(folder)


def enlarging(asked: Sample, changes: Sequence[Change], model: Model, seed: int) -> list[tuple[Sample, Model, Drawing]]:
    """The models of `then`, after `model`, each with images of zeros as its condition.

    Raises UserError if the condition of a model is not an image of the model before it, or its classes are others.
    """
    found, labels = [], [*model.restored.labels]
    for k, ckpt in enumerate(asked.then, start=1):
        before, restored = model.shape, opened(ckpt, asked.weights)
        own: dict[str, Any] = {"ckpt": ckpt, "then": []}
        if not restored.labels:
            own |= {"label": None, "labels": None}
        elif [*restored.labels] != labels:
            raise UserError(f"then={ckpt}: its classes are others than those of the first model; choose another")
        its = [each for each in changes if each.part not in ("guidance", "data")]  # which are for the first model
        settings, model = completed(asked.model_copy(update=own), restored, its), Model(restored, model.device)
        condition = condition_of(settings.condition, restored.facts, model.shape)
        shapes = [*condition.shapes(model.shape).values()] if condition else []
        if condition is None or shapes != [before]:
            wanted = " and ".join(str([*each]) for each in shapes) or "nothing, as it was trained without a condition"
            raise UserError(f"then={ckpt}: it is given {wanted}; the one before it draws {[*before]}")
        given = Given(condition, model.shape, model.kind, "a cascade", named=condition.own(torch.zeros(1, *before)))
        drawing = model.drawing(**options_of(settings) | {"given": given})
        # with the seed of the first model, its noise would begin with that of the first model
        found.append((settings, model, replace(drawing, seed=seed_for(seed, "then", k))))
    return found


def enlargement(drawing: Drawing, images: Tensor) -> Drawing:
    """The drawing of a model of `enlarging` from uint8 images (n, C, h, w) of the one before."""
    assert drawing.given is not None
    named = drawing.given.condition.own(drawing.kind.filled(drawing.kind.inside(images)))
    return replace(drawing, given=replace(drawing.given, named=named))


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
    files: Sequence[Image.Image] | None = None, named: str = "", like: str = "",
) -> None:  # fmt: skip
    """Write images (n, C, *size) into images/ as the kind does, their picture, and images.npz, with seed and classes.

    `files`, if given, are written to images/*.png instead. images.npz contains (n, *size, C) as arr_0, and classes as
    arr_1, as for OpenAI's evaluator; measurements are float32 there, in their units. Images of an earlier call in the
    folder, which has an images.npz, go. `named` says of which models they are, if of several, and `like` is the ending
    of the user's file that was edited.
    """
    n, kind = len(images), drawing.kind
    (folder / "images").mkdir(exist_ok=True)
    for file in (folder / "images").glob("[0-9]*.*") if (folder / "images.npz").is_file() else ():
        file.unlink()

    def write(i: int) -> None:
        stem = folder / f"images/{i:0{len(str(n - 1))}d}"
        save_png(files[i], stem.with_suffix(".png")) if files else kind.save(images[i], stem, like)

    if kind.allows("files"):
        list(in_threads(write, range(n), "writing images"))  # Pillow releases the GIL while it encodes
    given = drawing.conditions(restored.denoiser, n)
    classes: dict[str, Any] = {"arr_1": given["classes"].numpy()} if given else {}
    np.savez_compressed(folder / "images.npz", images.movedim(1, -1).numpy(), seed=drawing.seed, **classes)
    save_png(picture, folder / "grid.png")
    drawing.warn_of_saturated(images)
    named = named or f"step {restored.step} ({restored.weights} weights)"
    console.print(f"{count(n, 'image')} of {named}, in {folder}")
    pictures = ", ".join(sorted(file.name for file in folder.glob("*.png")))
    console.print(f"  images/, images.npz ({images.numpy().dtype}, N×H×W×C), {pictures}")
