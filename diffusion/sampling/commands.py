"""The work of `diffusion sample`: models with the settings of a command, their drawings, and the files of images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from diffusion.base.console import console, count, quiet_libraries
from diffusion.checkpoint.find import opened
from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.config.choices import RUN
from diffusion.config.schema import AnyStudy, Drawn, Edit, Evaluate, Sample
from diffusion.data import ImageData, to_unit
from diffusion.data.images import in_threads
from diffusion.errors import UserError
from diffusion.pixels import POINTS, grid, in_turn, save_png
from diffusion.process.sampler import Sampler
from diffusion.randomness import seed_for
from diffusion.sampling.drawing import Drawing, Frames, filmed, make_guidance
from diffusion.sampling.given import Given, condition_of, given_of
from diffusion.sampling.inheritance import completed
from diffusion.sampling.parallel import Task, choose_devices, draw, remove

GRID = 1024  # maximum number of images in a grid
CONDITIONS = "conditions.png"  # the pictures that the images of a grid were drawn from
B = TypeVar("B", bound=Sample | Edit | Evaluate | AnyStudy)


def opened_model(settings: B) -> tuple[B, Restored, list[torch.device]]:
    """The settings of a command, completed by the run of its model; the model, on the first device; the devices."""
    quiet_libraries()
    restored = opened(str(settings.ckpt), settings.weights)
    settings = completed(settings, restored)
    batches = -(-(settings.n or 1) // (settings.batch_size or 1))
    devices = choose_devices(settings.device, 1 if isinstance(settings, Edit) else settings.devices, batches)
    restored.denoiser.to(devices[0])
    return settings, restored, devices


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
    settings, restored, devices = opened_model(settings)
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
