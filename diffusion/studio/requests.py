"""The studio without its page: a form becomes command-line overrides ("words"), and these are drawn.

So `diffusion.sample` or `diffusion.edit` can reproduce everything the page draws. User input enters the overrides only
as numbers within bounds or as names of existing choices; Hydra never composes a user's raw text. Each request has its
own settings, sampler and folder; requests share only the model, which none of them changes.
"""

import io
import itertools
import json
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from PIL import Image
from torch import Tensor

from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.config.choices import choices
from diffusion.config.composition import INHERITED, RUN, composed, plain
from diffusion.config.quoting import command_line, hydra_value
from diffusion.config.schema import COMMANDS, Edit, Mixed, Sample
from diffusion.config.validation import validated
from diffusion.console import console
from diffusion.data import ImageData, to_uint8
from diffusion.edit.edits import Edits, edits, recorded, search_words
from diffusion.errors import UserError
from diffusion.evaluation.commands import labels_of, make_drawing
from diffusion.evaluation.frames import MOST_FRAMES
from diffusion.evaluation.inherited import completed_by
from diffusion.nearest import KNOWN, mirrored, neighbours
from diffusion.process.denoiser import Estimate
from diffusion.report.images import grid, picture_of

NUMBERS = {  # the bounds of a form's numbers
    "n": (1, 16), "frames": (2, 16), "seed": (0, 2**32 - 1), "sampler.steps": (1, 1000), "guidance.scale": (0, 20),
    "strength": (0.01, 1), "inpainting.passes": (1, 50), "inpainting.rounds": (1, 200),
}  # fmt: skip
CHOICES = {  # the settings with choices, as they are named on the command line
    "sampler": "sampler", "guidance": "guidance", "inpainting": "inpainting", "precision": "precision",
    "grid": "grid@sampler.grid", "threshold": "threshold@sampler.threshold",
}  # fmt: skip
FILMED = 4  # images in the film of the steps


class Stopped(Exception):
    """The user has stopped the drawing."""


@dataclass(frozen=True)
class Request:
    """A request to draw: a command, its values by setting, and a picture uint8 (C, H, W) with a mask bool (H, W)."""

    command: str  # sample or edit
    values: Mapping[str, Any]
    picture: Tensor | None = None
    fill: Tensor | None = None


@dataclass
class Result:
    """A result: uint8 images (n, C, H, W), pictures of the steps, and the record with the exact command."""

    images: Tensor
    record: dict[str, Any]
    film: list[Image.Image] = field(default_factory=list)
    request: Request | None = None

    def archive(self) -> bytes:
        """A zip file with the images, the user's picture and mask, and the record."""
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as file:
            for i, image in enumerate(self.images):
                file.writestr(f"images/{i:02d}.png", _png(image))
            for name, pixels in _inputs(self.request).items():
                file.writestr(name, _png(pixels))
            file.writestr(f"{self.record['made by']}.json", json.dumps(self.record, indent=1, ensure_ascii=False))
        return made.getvalue()


def words_of(request: Request, labels: Mapping[str, int]) -> list[str]:
    """The overrides of a request, except the model's; the picture and the mask are named picture.png and mask.png.

    Args:
        labels: the model's labels, which are the allowed classes.

    Raises UserError for a value that is not among the choices or out of bounds.
    """
    words = []
    for key, value in request.values.items():
        if value is None:
            continue
        if key in NUMBERS:
            words.append(f"{key}={_number(key, value)}")
        elif key == "interpolate":
            words.append("interpolate=[" + ",".join(_number("seed", seed) for seed in value) + "]")
        elif key in CHOICES:
            known = get_args(Mixed) if key == "precision" else choices(key)
            if value not in known and not (value == RUN and key in INHERITED):
                raise UserError(f"{key}={value!r}: unknown choice")
            words.append(f"{CHOICES[key]}={value}")
        elif key == "label":
            if value not in labels:
                raise UserError(f"label={value!r}: unknown class")
            words.append(f"label={_class(value, [*labels])}")
        else:
            raise UserError(f"{key}: the studio has no such setting")
    return [*words, *(f"{Path(name).stem.replace('picture', 'image')}={name}" for name in _inputs(request))]


def draw(
    restored: Restored,
    device: torch.device,
    request: Request,
    watch: Callable[[int, int, Tensor], None] | None = None,
) -> Result:
    """Draw a request.

    Args:
        restored: the model, with its denoiser on `device`.
        watch: called after each step with the step's number, the number of steps, and uint8 estimates of the images
            (n, C, H, W); it may raise Stopped.

    Raises UserError as the commands do, without paths of this machine.
    """
    words = words_of(request, restored.labels)
    with TemporaryDirectory() as folder:
        for name, pixels in _inputs(request).items():
            Path(folder, name).write_bytes(_png(pixels))
        settings = _settings(request.command, words, restored, Path(folder))
        made = _planned(settings, restored)
        film: list[Image.Image] = []
        steps, counted = made.drawing.sampler.steps, itertools.count(1)

        def after_step(_: int, __: int, x: Tensor, estimate: Estimate) -> None:
            k, seen = next(counted), to_uint8(estimate.x0).cpu()
            if k % (1 + steps // MOST_FRAMES) == 0 or k == steps:
                pair = torch.cat([to_uint8(x[:FILMED]).cpu(), seen[:FILMED]])
                film.append(grid(pair, len(pair) // 2, large=True))
            if watch is not None:
                watch(k, steps, seen)

        images = made.drawing(restored.denoiser, made.n, device, made.n, None, after_step)
    seed = made.drawing.seed
    weights = restored.weights.split()[-1]  # `0.08` of `ema 0.08`
    pinned = [
        f"ckpt={hydra_value(_near(restored.path, 3))}",
        *([] if weights == "ema" else [f"weights={weights}"]),
        *words,
    ]
    pinned += ([f"seed={seed}"] if request.values.get("seed") is None else []) + search_words(
        lambda folder: _near(folder, 1)
    )
    record = recorded(settings, made, restored, command_line(request.command, pinned))
    record = {"made by": request.command, **record, "checkpoint": record["checkpoint"]["sha256"]}
    return Result(images, record, film, request)


def stream(
    restored: Restored,
    device: torch.device,
    request: Request,
    stop: threading.Event,
    context: Context | None = None,
) -> Iterator[tuple[int, int, Tensor] | Result]:
    """Run `draw` in a separate thread; yields (step, steps, estimates) after each step, and finally the result.

    Once `stop` is set or the iterator is closed, the thread ends after its current step. Re-raises exceptions from
    `draw`, including Stopped after `stop` is set.

    Args:
        context: the context of the thread, with the user's own choices (`choices.searching`); None: the caller's.
    """
    queue: Queue[Any] = Queue()

    def watch(k: int, steps: int, seen: Tensor) -> None:
        if stop.is_set():
            raise Stopped
        queue.put((k, steps, seen))

    def work() -> None:
        try:
            queue.put(draw(restored, device, request, watch))
        except Exception as error:  # re-raised in the waiting thread
            queue.put(error)

    thread = threading.Thread(target=(context or copy_context()).run, args=(work,), daemon=True)
    thread.start()
    try:
        while True:
            got = queue.get()
            if isinstance(got, Exception):
                raise got
            yield got
            if isinstance(got, Result):
                return
    finally:
        stop.set()
        thread.join()


def nearest(images: Tensor, data: ImageData) -> tuple[Tensor, list[str]]:
    """The training image, or its mirror image, nearest to each image (n, C, H, W) by pixel distance.

    Returns uint8 (n, C, H, W), and the root mean squared distances in words.
    """
    train = data.splits["train"].images
    views = torch.stack(mirrored(images)).flatten(2).float()
    _, index = neighbours(views, (rows.flatten(1).float() for rows in train.split(KNOWN)))
    both = torch.stack(mirrored(train[index[:, 0]]))
    distances = (both.float() - images.float()).flatten(2).norm(dim=2)  # (2, n)
    found = torch.where((distances[1] < distances[0]).view(-1, 1, 1, 1), both[1], both[0])
    return found, [f"{float(each) / images[0].numel() ** 0.5:.0f} of 255 apart" for each in distances.amin(dim=0)]


def _settings(command: str, words: list[str], restored: Restored, folder: Path) -> Any:
    """The settings of a command's overrides, completed by the run's. The picture and the mask are in `folder`."""
    schema = COMMANDS[command]
    found = [word.replace("=", f"={folder}/") if word.endswith(".png") else word for word in words]
    composition = plain(composed(command, ["ckpt=x", "name=studio", *found]))
    return completed_by(validated(schema, composition), restored, restored.path.name)


def _planned(settings: Sample | Edit, restored: Restored) -> Edits:
    if isinstance(settings, Edit):
        return edits(settings, restored)
    nothing = torch.zeros(0, *restored.shape, dtype=torch.uint8)
    return Edits(make_drawing(settings, restored, labels_of(settings)), settings.n, nothing, "samples")


def _inputs(request: Request | None) -> dict[str, Tensor]:
    """File name -> picture of a request, uint8."""
    given: dict[str, Tensor] = {}
    if request is not None and request.picture is not None:
        given["picture.png"] = request.picture
    if request is not None and request.fill is not None:
        given["mask.png"] = request.fill.to(torch.uint8)[None].expand(3, -1, -1) * 255
    return given


def _number(key: str, value: Any) -> str:
    low, high = NUMBERS[key]
    if type(value) not in (int, float) or not low <= value <= high:
        raise UserError(f"{key}={value!r}: expected a number from {low} to {high}")
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _class(name: str, names: list[str]) -> str:
    """The number of a class, because a name can contain anything; its name if the number is the name of a class."""
    number = str(names.index(name))
    if number not in names:
        return number
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise UserError(f"label={name!r}: cannot be chosen, because its number, {number}, is the name of a class")
    return f'"{name}"'


def _near(path: Path, parts: int) -> str:
    """A path relative to the working folder; elsewhere only its last parts."""
    here, full = Path.cwd().resolve(), path.resolve()
    return str(full.relative_to(here)) if full.is_relative_to(here) else "/".join(full.parts[-parts:])


def _png(image: Tensor) -> bytes:
    made = io.BytesIO()
    picture_of(image).save(made, "PNG")
    return made.getvalue()


def training_images(restored: Restored) -> ImageData | None:
    """The data of the model's recipe; None, with a message, if it cannot be loaded."""
    try:
        data: ImageData = make(restored.config["data"], "data")
        data.setup()
    except UserError as error:
        console.print(f"nearest training images are not shown: {error}")
        return None
    return data
