"""The studio's gradio page: a form becomes the words of a command, which is drawn step by step and shown.

So `diffusion sample` or `diffusion edit` can reproduce everything the page draws. User input enters the words only as
numbers within the bounds of their fields, and as the offered choices: gradio refuses all others. Requests share the
model, which none of them changes.
"""

import html
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from queue import Queue
from threading import Event
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion.base.pixels import grid, reduced
from diffusion.checkpoint.find import BUNDLED, run_folder
from diffusion.checkpoint.restore import Restored
from diffusion.config.choices import RUN, choices, searched
from diffusion.config.inherit import changes_of
from diffusion.errors import UserError, command_line, shown
from diffusion.library.cascade import enlargement, enlarging
from diffusion.library.model import Model
from diffusion.library.opening import completed, edit_of, settings_of
from diffusion.process.denoiser import Estimate
from diffusion.runs.again import ENLARGED
from diffusion.sampling.edits import STRENGTH, EditRequest
from diffusion.sampling.request import Request

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts of other servers
CSS = """
.image-frame img {width: 100%; max-height: 70vh; object-fit: contain}
.thumbnails .grid-wrap {min-height: 0; height: auto !important; max-height: 24rem}
.thumbnails .grid-container {grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)) !important}
.thumbnails .thumbnail-item {aspect-ratio: auto; height: auto}
.thumbnails .caption-label {position: static; max-width: none; white-space: normal; overflow-wrap: anywhere}
"""
PICTURE: Any = {"format": "png", "buttons": ["download", "fullscreen"], "interactive": False}
LINE: Any = {"label": "The command that draws it again", "lines": 1, "wrap_lines": True, "show_line_numbers": False}
LARGE = 1280  # pixels; longest side of filled pictures
KEPT = 3600  # seconds for which gradio keeps pictures on disk
REMEMBERED = 24  # pictures of the history
LARGEST = 2**32 - 1  # of seeds
TABS = {  # title, command, the fields of its own, and what it does
    "draw": ("Draw", "sample", ["then"], "New pictures, made from noise. The same seed gives the same pictures."),
    "between": ("Blend", "edit", ["last"], "Pictures on the way from a picture of one seed to one of another seed."),
    "vary": ("Vary", "edit", ["image", "strength"], "Variants of your picture; at strength 1, nothing of it is kept."),
    "fill": ("Fill", "edit", ["painted", "inpainting"], "The model fills what you paint over, at its resolution."),
}
Shown = tuple[Image.Image, str, str]  # what is drawn, in words; at the end, with the command
Past = list[tuple[Shown, str, Mapping[str, Any]]]  # with the tab and its settings, the newest first


class Page:
    """The action of the page's buttons for one model.

    gradio's threads do not know the user's own folders of choices, so drawings run in the context of the constructor.
    """

    def __init__(self, restored: Restored, device: torch.device):
        restored.kind.require("studio")
        restored.denoiser.to(device)
        self.model, self.context = Model(restored, device), copy_context()

    def run(self, command: str, values: Mapping[str, Any]) -> Iterator[Shown]:
        """Draw in a thread, and yield what is shown after each step; closing the iterator stops after this step.

        Args:
            command: sample or edit.
            values: its settings; "" and None are left out. `image` is an array; `painted` is a picture that is painted
                over, as gradio's editor has it; `last` is the second seed of an interpolation.
        """
        queue, stop = Queue[Tensor | None](), Event()

        kind = self.model.restored.kind

        def after_step(_: int, __: int, x: Tensor, estimate: Estimate) -> None:
            if stop.is_set():
                raise CancelledError
            queue.put(kind.pictures(kind.outside(estimate.x0)).cpu())

        with ThreadPoolExecutor(1) as pool:
            drawing = pool.submit(self.context.copy().run, self.drawn, command, values, after_step)
            drawing.add_done_callback(lambda _: queue.put(None))
            try:
                for step, estimate in enumerate(iter(queue.get, None), start=1):
                    # its number tells the file of a step from that of an equal picture at the end
                    yield grid(estimate, large=True, step=step), f"step {step}", ""
                yield drawing.result()
            except UserError as error:
                raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None
            finally:
                stop.set()

    def drawn(self, command: str, values: Mapping[str, Any], after_step: Any) -> Shown:
        """What is shown at the end; in the line of its command, the user's pictures are PICTURE and MASK."""
        restored, image, mask = self.model.restored, values.get("image"), None
        steps, scale = self.numbers(values["sampler"], values["guidance"])
        usual = {"sampler": RUN, "guidance": RUN, "sampler.steps": steps, "guidance.scale": scale}
        apart = {"image", "painted", "last", *(["guidance.scale"] if scale is None else [])}
        given = {key: value for key, value in values.items() if key not in apart}
        words = [f"{key}={value}" for key, value in given.items() if value not in ("", None, usual.get(key))]
        if "last" in values:
            words.append(f"interpolate=[{values['seed']},{values['last']}]")
        if painted := values.get("painted"):
            mask = np.any([np.asarray(layer)[..., -1] > 0 for layer in painted["layers"]], axis=0)
            image = painted["background"]
            words.append("mask=MASK")
        if {"image", "painted"} & {*values}:
            words.append("image=PICTURE")
            if image is None or (mask is not None and not mask.any()):
                raise UserError("upload a picture first" if image is None else "paint over the part to fill first")
        settings = self.settings(command, words)
        edit = edit_of(settings, image, mask) if command == "edit" else EditRequest()
        drawing, _, paste, _ = edit.of(restored, Request.of(settings))
        device, n = self.model.device, settings.n
        images = drawing(restored.denoiser, n, device, n, None, after_step)
        said = drawing.saturation(images)
        asked = settings_of("sample", ["ckpt=x", *words]) if values.get("then") else None
        for _, larger, stage in enlarging(asked, changes_of(words), self.model, drawing.seed) if asked else ():
            larger.restored.denoiser.to(device)
            images = enlargement(stage, images)(larger.restored.denoiser, n, device, n, None, after_step)
        if paste:
            images = reduced(paste(images), LARGE // math.ceil(math.sqrt(settings.n)))
        weights, path = restored.weights.split()[-1], restored.path  # `0.08` of `ema 0.08`
        ckpt = path.relative_to(BUNDLED).parts[0] if path.is_relative_to(BUNDLED) else shown(str(path))
        model = [f"ckpt={ckpt}", *([] if weights == "ema" else [f"weights={weights}"])]
        own = [word for folder in searched()[1:] for word in ("--config-dir", str(folder))]
        return grid(images, large=True), said, command_line([command, *own, *model, *words])

    def settings(self, command: str, words: Sequence[str]) -> Any:
        return completed(settings_of(command, ["ckpt=x", *words]), self.model.restored, changes_of(words))

    def numbers(self, sampler: str, guidance: str) -> tuple[int, float | None]:
        """The usual steps of a sampler, and the usual scale of a guidance; None: it has none."""
        words = f"sampler={sampler}", f"guidance={guidance}"
        settings = self.context.copy().run(self.settings, "sample", words)
        return settings.sampler["steps"], (settings.guidance or {}).get("scale")

    def fits(self, guidance: str) -> bool:
        """Whether the model can be guided so, without other settings."""
        with suppress(UserError):
            self.model.drawing(guidance=guidance)
            return True
        return False


def build(restored: Restored, device: torch.device) -> gr.Blocks:
    """Build the page of a model, which is moved to `device`."""
    page, (_, height, width) = Page(restored, device), restored.shape
    steps, scale = page.numbers(RUN, RUN)
    folder = run_folder(restored.path).name if restored.path.stem == "last" else restored.path.stem
    name = html.escape(str(restored.config.get("name", folder)))  # weights alone have no name
    of_run, of_sampler = ("the run's own", RUN), ("the sampler's own", "")
    fields: dict[str, Any] = {}
    of_tabs = {key for _, _, own, _ in TABS.values() for key in own}

    def number(label: str, value: int, least: int = 0, most: int = LARGEST) -> gr.Number:
        return gr.Number(value, label=label, minimum=least, maximum=most, precision=0, min_width=90)

    def slider(label: str, value: float, least: float, most: float, step: float, **more: Any) -> gr.Slider:
        return gr.Slider(least, most, value=value, step=step, label=label, min_width=90, **more)

    def dropdown(label: str, usual: tuple[str, str], offered: Sequence[Any], **more: Any) -> gr.Dropdown:
        return gr.Dropdown([usual, *offered], value=usual[1], label=label, **more)

    def drawing(tab: str, past: Past, *given: Any) -> Iterator[Any]:
        (_, command, own, _), every = TABS[tab], dict(zip(fields, given, strict=True))
        values = {key: every[key] for key in [*(key for key in every if key not in of_tabs), *own]}
        for now in page.run(command, values):
            picture, said, line = now
            past = [(now, tab, values), *past[: REMEMBERED - 1]] if line else past
            thumbnails = [(each, f"seed={line.partition(' seed=')[2]}") for (each, _, line), _, _ in past]
            yield picture, said, line or "…", past, thumbnails if line else gr.skip()

    def again(past: Past, chosen: gr.SelectData) -> Any:
        now, tab, values = past[chosen.index]
        return *now, tab, gr.Tabs(selected=tab), *(values.get(key, gr.skip()) for key in settings)

    def stepped(sampler: str) -> int:
        return page.numbers(sampler, RUN)[0]

    def scaled(guidance: str) -> gr.Slider:
        return gr.Slider(value=page.numbers(RUN, guidance)[1] or 1, visible=True)

    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(KEPT, KEPT), fill_width=True) as blocks:
        gr.Markdown(f"# {name} · {height}×{width} pixels · step {restored.step}")
        past, tab = gr.State([], time_to_live=KEPT), gr.State("draw")
        with gr.Row():
            with gr.Column(scale=2, min_width=360):
                with gr.Tabs() as tabs:
                    for key, (title, _, own, about) in TABS.items():
                        with gr.Tab(title, id=key) as each:
                            given = key in ("draw", "between") and restored.facts.condition is not None
                            gr.Markdown(about + " Each has the condition of a held-out image." * given)
                            if "last" in own:
                                fields["last"] = number("Second seed", 1)
                            if "then" in own:
                                larger = [("twice the sides", "super")]
                                fits = restored.shape == ENLARGED and restored.facts.condition is None
                                fields["then"] = dropdown("Enlarge", ("no", ""), larger, visible=fits)
                            if "image" in own:
                                fields["image"] = gr.Image(label="Your picture", type="numpy", sources=["upload"])
                                fields["strength"] = slider("Strength", STRENGTH, 0.01, 1, 0.01)
                            if "painted" in own:
                                fields["painted"] = gr.ImageMask(label="Your picture", sources=["upload"])
                        each.select(lambda key=key: key, None, tab, api_visibility="private")
                with gr.Row():
                    fields["seed"] = number("Seed", 0)
                    fields["n"] = slider("Pictures", 4, 1, 16, 1, precision=0)
                with gr.Row():
                    fields["sampler.steps"] = number("Steps", steps, 1, max(1000, steps))
                    most, guided = max(10, scale or 0), scale is not None
                    fields["guidance.scale"] = slider("Guidance scale", scale or 1, 0, most, 0.1, visible=guided)
                classes = [(name, f'"{name}"') for name in restored.labels]
                fields["label"] = dropdown("Class", ("all", ""), classes, visible=bool(classes))
                with gr.Accordion("More", open=False):
                    fields["sampler"] = dropdown("Sampler", of_run, choices("sampler"))
                    fields["grid@sampler.grid"] = dropdown("Noise levels", of_sampler, choices("grid"))
                    fields["threshold@sampler.threshold"] = dropdown("Threshold", of_sampler, choices("threshold"))
                    fields["guidance"] = dropdown("Guidance", of_run, [*filter(page.fits, choices("guidance"))])
                    fields["inpainting"] = dropdown("How a part is filled", ("default", ""), choices("inpainting"))
                button = gr.Button("Draw", variant="primary")
                with gr.Row():
                    dice, stop = gr.Button("New seed", min_width=90), gr.Button("Stop", min_width=90)
                status = gr.Markdown()
            with gr.Column(scale=5, min_width=320):
                with gr.Row():
                    with gr.Column(min_width=300):
                        drawn = gr.Image(label="Drawn", **PICTURE)
                        line = gr.Code(buttons=["copy"], interactive=False, **LINE)
                        pin = gr.Button("Keep beside", size="sm")
                    with gr.Column(min_width=300, visible=False) as beside:
                        kept = gr.Image(label="Kept", **PICTURE), gr.Code(buttons=["copy"], interactive=False, **LINE)
                        away = gr.Button("Remove", size="sm")
                gr.Markdown("Drawn so far: click on one to bring it back.")
                gallery = gr.Gallery(show_label=False, format="png", allow_preview=False, elem_classes="thumbnails")
        settings = {key: field for key, field in fields.items() if key not in ("image", "painted")}
        shown, inputs = [drawn, status, line], [tab, past, *fields.values()]
        private: Any = {"api_visibility": "private"}
        work: Any = {"fn": drawing, "inputs": inputs, "outputs": [*shown, past, gallery], "show_progress_on": status}
        first = blocks.load(**work, **private)
        seeded = dice.click(lambda: random.randrange(10_000), None, fields["seed"], cancels=[first], **private)
        asked = [button.click, fields["seed"].submit, fields["sampler.steps"].submit]
        running = gr.on(asked, **work, api_name="draw", cancels=[first]), seeded.then(**work, **private)
        stop.click(None, cancels=[first, *running])
        pin.click(lambda *given: (*given, gr.Column(visible=True)), [drawn, line], [*kept, beside], **private)
        away.click(lambda: gr.Column(visible=False), None, beside, **private)
        gallery.select(again, past, [*shown, tab, tabs, *settings.values()], **private)
        fields["sampler"].input(stepped, fields["sampler"], fields["sampler.steps"], **private)
        fields["guidance"].input(scaled, fields["guidance"], fields["guidance.scale"], **private)
    return blocks
