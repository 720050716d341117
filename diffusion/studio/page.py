"""The studio's gradio page: a form becomes the words of a command, which is drawn step by step and shown.

So `diffusion sample` or `diffusion edit` can reproduce everything the page draws. User input enters the words only as
numbers within the bounds of their fields, and as the offered choices: gradio refuses all others. Requests share the
model, which none of them changes.
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextvars import copy_context
from queue import Queue
from threading import Event
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion.checkpoint.restore import Restored
from diffusion.config.build import validated
from diffusion.config.choices import RUN, choices, composed, searched
from diffusion.config.schema import COMMANDS
from diffusion.data import to_uint8
from diffusion.edit.edits import edited
from diffusion.errors import UserError, command_line, shown
from diffusion.evaluation.commands import completed, make_drawing
from diffusion.pixels import grid
from diffusion.process.denoiser import Estimate

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts of other servers
KEPT = 3600  # seconds for which gradio keeps pictures on disk
LARGEST = 2**32 - 1  # of seeds
Shown = tuple[Image.Image, str]  # what is drawn, in words


class Page:
    """The action of the page's buttons for one model.

    gradio's threads do not know the user's own folders of choices, so drawings run in the context of the constructor.
    """

    def __init__(self, restored: Restored, device: torch.device):
        restored.denoiser.to(device)
        self.restored, self.device, self.context = restored, device, copy_context()

    def run(self, command: str, values: Mapping[str, Any]) -> Iterator[Shown]:
        """Draw in a thread, and yield what is shown after each step; closing the iterator stops after this step.

        Args:
            command: sample or edit.
            values: its settings; "" and None are left out. `image` is an array, or painted over as gradio's editor has
                it; `last` is the second seed of an interpolation.
        """
        queue, stop = Queue[Tensor | None](), Event()

        def after_step(_: int, __: int, x: Tensor, estimate: Estimate) -> None:
            if stop.is_set():
                raise CancelledError
            queue.put(to_uint8(estimate.x0).cpu())

        with ThreadPoolExecutor(1) as pool:
            drawing = pool.submit(self.context.copy().run, self.drawn, command, values, after_step)
            drawing.add_done_callback(lambda _: queue.put(None))
            try:
                for step, estimate in enumerate(iter(queue.get, None), start=1):
                    yield grid(estimate, large=True), f"step {step}"
                images, line = drawing.result()
                yield grid(images, large=True), line
            except UserError as error:
                raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None
            finally:
                stop.set()

    def drawn(self, command: str, values: Mapping[str, Any], after_step: Any) -> tuple[Tensor, str]:
        """The images, uint8 (n, C, H, W), and the line of their command, in which the pictures are PICTURE and MASK."""
        restored, image, mask = self.restored, values.get("image"), None
        given = {key: value for key, value in values.items() if key not in ("image", "last")}
        words = [f"{key}={value}" for key, value in given.items() if value not in ("", None)]
        if "last" in values:
            words.append(f"interpolate=[{values['seed']},{values['last']}]")
        if isinstance(image, Mapping):
            mask = np.any([np.asarray(layer)[..., -1] > 0 for layer in image["layers"]], axis=0)
            image = image["background"]
            words.append("mask=MASK")
        if "image" in values:
            words.append("image=PICTURE")
            if image is None or (mask is not None and not mask.any()):
                raise UserError("upload a picture first, and paint over the part to fill")
        settings: Any = validated(COMMANDS[command], composed(command, ["ckpt=x", "name=studio", *words]))
        settings = completed(settings, restored)
        drawing = make_drawing(settings, restored)
        if command == "edit":
            drawing, _ = edited(drawing, settings, restored, image, mask)
        images = drawing(restored.denoiser, settings.n, self.device, settings.n, None, after_step)
        weights = restored.weights.split()[-1]  # `0.08` of `ema 0.08`
        model = [f"ckpt={shown(str(restored.path))}", *([] if weights == "ema" else [f"weights={weights}"])]
        own = [word for folder in searched()[1:] for word in ("--config-dir", str(folder))]
        return images, command_line(command, [*own, *model, *words])


def build(restored: Restored, device: torch.device) -> gr.Blocks:
    """Build the page of a model, which is moved to `device`."""
    page, (_, height, width) = Page(restored, device), restored.shape
    running: list[Any] = []

    def number(label: str, value: int | None, most: int = 16, least: int = 1) -> gr.Number:
        return gr.Number(value, label=label, minimum=least, maximum=most, precision=0)

    def dropdown(label: str, offered: Sequence[Any], value: str = "") -> gr.Dropdown:
        return gr.Dropdown([*offered] if value else [("default", ""), *offered], value=value, label=label)

    def action(name: str, command: str, fields: dict[str, Any]) -> None:
        """A button that runs a command with these fields and the form, and its outputs."""
        button = gr.Button("Draw", variant="primary")
        drawn = gr.Image(label="drawn", format="png")
        line = gr.Code(label="the command that reproduces it")
        every = {**fields, **form}

        def run(*given: Any) -> Iterator[Shown]:
            yield from page.run(command, dict(zip(every, given, strict=True)))

        running.append(button.click(run, [*every.values()], [drawn, line], api_name=name))

    with gr.Blocks(title="Studio", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        gr.Markdown(f"# Studio\n{height}×{width} images, step {restored.step}, {restored.weights} weights")
        with gr.Row():
            form = {
                "seed": number("seed", 0, LARGEST, 0),
                "sampler": dropdown("sampler", [RUN, *choices("sampler")], RUN),
                "sampler.steps": number("steps (empty: the sampler's)", None, 1000),
                "grid@sampler.grid": dropdown("grid", choices("grid")),
                "threshold@sampler.threshold": dropdown("threshold", choices("threshold")),
                "guidance": dropdown("guidance", [RUN, *choices("guidance")], RUN),
                "guidance.scale": gr.Number(None, label="scale (empty: the guidance's)"),
                "label": dropdown("label", [(name, f'"{name}"') for name in restored.labels]),
            }
        stop = gr.Button("Stop")
        with gr.Tab("Draw"):
            action("draw", "sample", {"n": number("images", 8)})
        with gr.Tab("Between two noises"):
            action("between", "edit", {"last": number("second seed", 1, LARGEST, 0), "n": number("images", 8, least=2)})
        with gr.Tab("Variants of a picture"):
            picture = gr.Image(label="a picture", type="numpy", sources=["upload"])
            strength = gr.Slider(0.01, 1, value=0.6, label="strength")
            action("vary", "edit", {"image": picture, "strength": strength, "n": number("images", 4)})
        with gr.Tab("Fill a part"):
            painted = gr.ImageMask(label="a picture; paint over the part to fill", type="numpy", sources=["upload"])
            method = dropdown("method", choices("inpainting"), "repaint")
            action("fill", "edit", {"image": painted, "inpainting": method, "n": number("images", 4)})
        stop.click(None, cancels=running)
    return blocks
