"""The studio's gradio page: a form becomes the words of a command, which is drawn step by step and shown.

So `diffusion.sample` or `diffusion.edit` can reproduce everything the page draws. User input enters the words only as
numbers within the bounds of their fields, and as the offered choices: gradio refuses all others. Requests share the
model, which none of them changes.
"""

import html
import threading
from collections.abc import Iterator, Mapping
from contextvars import copy_context
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from typing import Any, get_args

import gradio as gr
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.config.choices import choices
from diffusion.config.composition import RUN, choice, composed
from diffusion.config.quoting import command_line, hydra_value
from diffusion.config.schema import COMMANDS, Edit, Mixed
from diffusion.config.validation import validated
from diffusion.console import console
from diffusion.data import ImageData, to_uint8
from diffusion.edit.edits import Edits, edits, search_words
from diffusion.edit.inputs import read_mask, read_picture
from diffusion.errors import UserError
from diffusion.evaluation.commands import labels_of, make_drawing
from diffusion.evaluation.guided import parts_of
from diffusion.evaluation.inherited import completed_by
from diffusion.nearest import mirrored, neighbours
from diffusion.process.denoiser import Estimate
from diffusion.report.images import grid, picture_of

FORM = (
    "seed", "sampler", "sampler.steps", "grid@sampler.grid", "threshold@sampler.threshold", "guidance",
    "guidance.scale", "label", "precision",
)  # fmt: skip
NONE = "none"
FREE = ("sampler.steps", 0)  # the sampler's own
USUAL = ("default", "")  # what is shown, and its value: the sampler's own, classes as in training, or float32
KEPT = 3600  # seconds for which gradio keeps pictures on disk
Shown = tuple[Image.Image | None, Image.Image | None, str]  # drawn, with the nearest training images, in words


class Stopped(Exception):
    """The user has stopped the drawing."""


class Page:
    """The actions of the page's buttons for one model; without `data`, no nearest training images are shown.

    gradio's threads do not know the user's own folders of choices, so drawings run in the context of the constructor.
    """

    def __init__(self, restored: Restored, device: torch.device, data: ImageData | None):
        self.restored, self.device, self.data = restored, device, data
        self.context = copy_context()

    def draw(self, second: str, n: int, *form: Any) -> Iterator[tuple[Any, ...]]:
        """Draw samples, then samples of the second sampler from the same noise, shown side by side."""
        values, left, empty = {**dict(zip(FORM, form, strict=True)), "n": n}, None, (None, None, "")
        for left in self.run("sample", values):
            yield *left, *empty
        if second != NONE and left is not None:
            others = {key: value for key, value in values.items() if "@" not in key} | {"sampler": second}
            for right in self.run("sample", others):
                yield *left, *right

    def between(self, first: int, last: int, frames: int, *form: Any) -> Iterator[Shown]:
        """Draw images between the noises of two seeds."""
        values = {**dict(zip(FORM, form, strict=True)), "interpolate": f"[{first},{last}]", "frames": frames}
        yield from self.run("edit", {**values, "seed": None})

    def vary(self, picture: Any, strength: float, n: int, *form: Any) -> Iterator[Shown]:
        """Draw variants of a picture."""
        values = {**dict(zip(FORM, form, strict=True)), "strength": strength, "n": n}
        yield from self.run("edit", values, {"image": picture})

    def fill(self, painted: Any, method: str, n: int, *form: Any) -> Iterator[Shown]:
        """Fill a picture where it is painted over."""
        values = {**dict(zip(FORM, form, strict=True)), "inpainting": method, "n": n}
        layers = [np.asarray(layer)[..., -1] > 0 for layer in (painted or {}).get("layers") or []]
        if not any(layer.any() for layer in layers):
            raise gr.Error("paint over the part to fill")
        yield from self.run("edit", values, {"image": painted["background"], "mask": np.any(layers, axis=0)})

    def run(
        self, command: str, values: Mapping[str, Any], pictures: Mapping[str, Any] | None = None
    ) -> Iterator[Shown]:
        """Draw in a thread, and yield what is shown after each step; closing the iterator stops after this step."""
        queue: Queue[Any] = Queue()
        stop = threading.Event()

        def after_step(_: int, __: int, x: Tensor, estimate: Estimate) -> None:
            if stop.is_set():
                raise Stopped
            queue.put(to_uint8(estimate.x0).cpu())

        def work() -> None:
            try:
                queue.put(self.drawn(command, values, pictures or {}, after_step))
            except Exception as error:  # raised again in the waiting thread
                queue.put(error)

        thread = threading.Thread(target=self.context.copy().run, args=(work,), daemon=True)
        thread.start()
        try:
            step = 0
            while not isinstance(got := queue.get(), tuple | Exception):
                step += 1
                yield grid(got, large=True), None, f"step {step}"
            if isinstance(got, Exception):
                raise got
            images, line = got
            yield grid(images, large=True), self.beside_nearest(images), line
        except UserError as error:
            raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None
        finally:
            stop.set()
            thread.join()

    def drawn(
        self, command: str, values: Mapping[str, Any], pictures: Mapping[str, Any], after_step: Any
    ) -> tuple[Tensor, str]:
        """The images, uint8 (n, C, H, W), and the line of their command, in which the pictures are PICTURE and MASK."""
        names = {"image": "PICTURE", "mask": "MASK"}
        words = words_of(values, [*self.restored.labels])
        with TemporaryDirectory() as folder:
            for key, pixels in pictures.items():
                if pixels is None:
                    raise UserError("upload a picture first")
                if key == "image":
                    image = picture_of(read_picture(pixels, self.restored.shape))
                else:
                    fill = read_mask(pixels, self.restored.shape, pictures["image"])
                    image = Image.fromarray(fill.numpy())
                image.save(Path(folder, f"{names[key]}.png"))
            paths = [f"{key}={hydra_value(str(Path(folder, f'{names[key]}.png')))}" for key in pictures]
            made = self.planned(command, [*words, *paths])
            images = made.drawing(self.restored.denoiser, made.n, self.device, made.n, None, after_step)
        weights = self.restored.weights.split()[-1]  # `0.08` of `ema 0.08`
        model = [f"ckpt={hydra_value(str(self.restored.path))}", *([] if weights == "ema" else [f"weights={weights}"])]
        named = [f"{key}={names[key]}" for key in pictures]
        return images, command_line(command, [*model, *words, *named, *search_words()])

    def planned(self, command: str, words: list[str]) -> Edits:
        """How the command with these words draws."""
        node = composed(command, ["ckpt=x", "name=studio", *words])
        settings: Any = completed_by(validated(COMMANDS[command], node), self.restored)
        if isinstance(settings, Edit):
            return edits(settings, self.restored)
        nothing = torch.zeros(0, *self.restored.shape, dtype=torch.uint8)
        return Edits(make_drawing(settings, self.restored, labels_of(settings)), settings.n, nothing, "samples")

    def beside_nearest(self, images: Tensor) -> Image.Image | None:
        """The images, and below each one the training image that is nearest to it or to its mirror image."""
        if self.data is None:
            return None
        train = self.data.splits["train"].images
        views = torch.stack([view.flatten(1).float() for view in mirrored(images)])
        _, index = neighbours(views, (part.flatten(1).float() for part in train.split(1024)))
        return grid(torch.cat([images, train[index[:, 0]]]), len(images), large=True)


def words_of(values: Mapping[str, Any], classes: list[str]) -> list[str]:
    """The overrides of a form's values; empty ones are left out. Raises UserError for a scale that is no number."""
    found = {key: value for key, value in values.items() if value not in (None, "") and (key, value) != FREE}
    if "guidance.scale" in found:
        try:
            found["guidance.scale"] = float(found["guidance.scale"])
        except ValueError as error:
            raise UserError("scale: expected a number") from error
    if "label" in found:
        name, number = found["label"], str(classes.index(found["label"]))
        found["label"] = hydra_value(name) if number in classes else number
    return [f"{key}={value}" for key, value in found.items()]


def guidances(restored: Restored) -> list[str]:
    """The run's guidance, no guidance and, for a model with labels, guidances whose weak estimate drops the label."""

    def drops_labels(node: dict[str, Any]) -> bool:
        return bool(parts_of(node)[0].drops_labels)

    made = {name: choice("guidance", name) for name in choices("guidance")}
    return [RUN, *(name for name, node in made.items() if not node or (restored.labels and drops_labels(node)))]


def build(restored: Restored, device: torch.device, data: ImageData | None) -> gr.Blocks:
    """Build the page of a model whose denoiser is on `device`."""
    own, (_, height, width) = Page(restored, device, data), restored.shape

    def number(label: str, value: int, most: int = 16, least: int = 1) -> gr.Number:
        return gr.Number(value, label=label, minimum=least, maximum=most, precision=0)

    def outputs() -> list[Any]:
        near = gr.Image(label="below: the nearest training images", format="png", visible=data is not None)
        return [gr.Image(label="drawn", format="png"), near, gr.Code(label="the command that reproduces it")]

    with gr.Blocks(title="Studio", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        gr.Markdown(f"# Studio\n{height}×{width} images, step {restored.step}, {restored.weights} weights")
        with gr.Row():
            form = [
                number("seed", 0, 2**32 - 1, 0),
                gr.Dropdown([RUN, *choices("sampler")], value=RUN, label="sampler"),
                number("steps (0: the sampler's)", 0, 1000, 0),
                gr.Dropdown([USUAL, *choices("grid")], value="", label="grid"),
                gr.Dropdown([USUAL, *choices("threshold")], value="", label="threshold"),
                gr.Dropdown(guidances(restored), value=RUN, label="guidance"),
                gr.Textbox("", label="scale (empty: the guidance's)", max_lines=1),
                gr.Dropdown([USUAL, *restored.labels], value="", label="label"),
                gr.Dropdown([USUAL, *get_args(Mixed)], value="", label="precision"),
            ]
        stop = gr.Button("Stop")
        running: list[Any] = []
        with gr.Tab("Draw"):
            given: list[Any] = [
                gr.Dropdown([NONE, *choices("sampler")], value=NONE, label="second sampler"),
                number("images", 8),
            ]
            go = gr.Button("Draw", variant="primary")
            with gr.Row():
                with gr.Column():
                    left = outputs()
                with gr.Column():
                    right = outputs()
            running.append(go.click(own.draw, [*given, *form], [*left, *right], api_name="draw"))
        with gr.Tab("Between two noises"):
            given = [
                number("from seed", 0, 2**32 - 1, 0),
                number("to seed", 1, 2**32 - 1, 0),
                number("images", 8, 16, 2),
            ]
            go = gr.Button("Draw", variant="primary")
            running.append(go.click(own.between, [*given, *form], outputs(), api_name="between"))
        with gr.Tab("Variants of a picture"):
            strength = gr.Slider(0.01, 1, value=0.6, label="strength")
            given = [gr.Image(label="a picture", type="numpy", sources=["upload"]), strength, number("images", 4)]
            go = gr.Button("Draw", variant="primary")
            running.append(go.click(own.vary, [*given, *form], outputs(), api_name="vary"))
        with gr.Tab("Fill a part"):
            painted = gr.ImageMask(label="a picture; paint over the part to fill", type="numpy", sources=["upload"])
            method = gr.Dropdown(choices("inpainting"), value="repaint", label="method")
            go = gr.Button("Fill", variant="primary")
            given = [painted, method, number("images", 4)]
            running.append(go.click(own.fill, [*given, *form], outputs(), api_name="fill"))
        stop.click(None, cancels=running)
    return blocks


def training_images(restored: Restored) -> ImageData | None:
    """The data of the model's recipe; None, with a message, if it cannot be loaded."""
    try:
        data: ImageData = make(restored.config["data"], "data")
        data.setup()
    except UserError as error:
        console.print(f"nearest training images are not shown: {error}")
        return None
    return data


def serve(restored: Restored, device: torch.device, data: ImageData | None, host: str, port: int) -> None:
    """Serve the page until interrupted: without a public link, and without fonts of other servers."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    page = build(restored, device, data)
    page.launch(server_name=host, server_port=port, share=False, ssr_mode=False, footer_links=[], theme=theme)
