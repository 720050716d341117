"""The studio's gradio page: forms around `requests.stream`. Results are embedded in the page, not written to files.

gradio keeps uploads and the canvas in a temporary folder, which is removed at the end.
"""

import base64
import html
import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
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
from diffusion.config.composition import RUN, choice
from diffusion.config.schema import Mixed
from diffusion.data import ImageData
from diffusion.data.image import FORMATS
from diffusion.edit.inputs import read_picture
from diffusion.errors import UserError
from diffusion.report.images import enlarged, gif, grid, picture_of
from diffusion.studio import requests
from diffusion.studio.requests import NUMBERS, Request, Result, Stopped

UPLOAD = 10_000_000  # maximum file size in bytes
PIXELS = 1 << 24  # maximum size of a painted mask
CANVAS = 384  # approximate longer side of the canvas for masks, in pixels
COMPARED = 8  # images whose nearest training images are shown
NONE = "none"
STOPPED = "stopped"  # text of a drawing that was stopped
USUAL = ("default", "")  # what is shown, and its value: the sampler's own, classes as in training, or float32
Shown = tuple[str, str]  # HTML: pictures and text


class Page:
    """The actions of the page's buttons for one model. `stops` has the session and the stopping event of each drawing.

    gradio's threads do not know the user's own folders of choices, so drawings run in the context of the constructor.
    """

    def __init__(self, restored: Restored, device: torch.device, data: ImageData | None):
        self.restored, self.device, self.data = restored, device, data
        self.stops: set[tuple[str, threading.Event]] = set()
        self.context = copy_context()
        self.efforts = {name: effort_of(name) for name in choices("inpainting")}

    def draw(self, second: str | None, n: Any, session: gr.Request, *form: Any) -> Iterator[tuple[str, str, str, str]]:
        """Draw samples, then samples of the second sampler from the same noise, shown side by side."""
        values = {**self.values(form), "n": n}
        left: Shown = "", ""
        for left in self.run(Request("sample", values), session):
            yield *left, "", ""
        if second not in (None, NONE) and left[1] != STOPPED:
            others = {key: value for key, value in values.items() if key not in ("grid", "threshold")}
            for right in self.run(Request("sample", {**others, "sampler": second}), session):
                yield *left, *right

    def between(self, first: Any, last: Any, frames: Any, session: gr.Request, *form: Any) -> Iterator[Shown]:
        """Draw images between the noises of two seeds."""
        values = {**self.values(form), "interpolate": [first, last], "frames": frames, "seed": None}
        yield from self.run(Request("edit", values), session)

    def vary(self, file: str | None, strength: Any, n: Any, session: gr.Request, *form: Any) -> Iterator[Shown]:
        """Draw variants of an uploaded picture."""
        values = {**self.values(form), "strength": strength, "n": n}
        yield from self.run(Request("edit", values, self.read(file)), session)

    def fill(
        self, file: str | None, painted: Any, method: str, effort: Any, n: Any, session: gr.Request, *form: Any
    ) -> Iterator[Shown]:
        """Fill an uploaded picture where it is painted over."""
        values = {**self.values(form), "inpainting": method, "n": n}
        if effort and (key := self.efforts.get(method)):
            values[key] = effort
        yield from self.run(Request("edit", values, self.read(file), self.mask(painted)), session)

    def canvas(self, file: str | None) -> dict[str, Any]:
        """The uploaded picture, as the model sees it, to paint on."""
        image = picture_of(self.read(file)).convert("RGB")
        scale = max(1, CANVAS // max(image.size))
        large = image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST)
        return {"background": np.asarray(large), "layers": [], "composite": np.asarray(large)}

    def stop(self, session: gr.Request) -> str:
        """Stop the session's drawings."""
        own = [stop for key, stop in tuple(self.stops) if key == str(session.session_hash)]
        for stop in own:
            stop.set()
        if not own:
            return "nothing is being drawn"
        return "stopping after this step"

    def run(self, request: Request, session: gr.Request) -> Iterator[Shown]:
        """Run a request; yields pictures and text after each step."""
        key, stop = str(session.session_hash), threading.Event()
        self.stops.add((key, stop))
        try:
            for seen in requests.stream(self.restored, self.device, request, stop, self.context.copy()):
                if isinstance(seen, Result):
                    yield self.shown(seen), said(seen)
                else:
                    k, steps, images = seen
                    yield picture(grid(images, large=True)), f"step {k} of {steps}"
        except Stopped:
            yield "", STOPPED
        except UserError as error:
            raise self.refused(error) from None
        finally:
            self.stops.discard((key, stop))

    def shown(self, result: Result) -> str:
        """The drawn images, their steps, and the nearest training images."""
        images = result.images
        parts = [picture(grid(images, large=True), "the drawn images"), film(result.film)]
        if self.data is not None:
            some = images[:COMPARED]
            near, apart = requests.nearest(some, self.data)
            pairs = torch.cat([some, near])
            words = "top: samples, bottom: the nearest training images: " + ", ".join(apart)
            parts.append(picture(grid(pairs, len(near), large=True), words))
        return "".join(parts)

    def values(self, form: Sequence[Any]) -> dict[str, Any]:
        """Setting -> value of the form that all tabs share. An empty number field reaches the server as 0."""
        values = dict(zip(COMMON, form, strict=True))
        if not values["sampler.steps"]:
            del values["sampler.steps"]  # use the sampler's default
        scale = str(values.pop("guidance.scale")).strip()
        if scale:
            values["guidance.scale"] = as_number(scale)
        return {key: value for key, value in values.items() if value != ""}

    def read(self, file: str | None) -> Tensor:
        if file is None:
            raise gr.Error("upload a picture first")
        try:
            return read_picture(file, self.restored.shape)
        except UserError as error:
            raise self.refused(error, file) from None

    def mask(self, painted: Any) -> Tensor:
        """The mask, true where any layer is painted on, in the size of the model's images: bool (H, W)."""
        layers = [np.asarray(layer)[..., -1] > 0 for layer in (painted or {}).get("layers") or []]
        if not any(layer.any() for layer in layers):
            raise gr.Error("paint over the part to fill")
        _, height, width = self.restored.shape
        small = Image.fromarray(np.any(layers, axis=0)).resize((width, height), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(small))

    def refused(self, error: UserError, file: str = "") -> gr.Error:
        """An error for the page: escaped, because it is shown as HTML, and without this machine's folder names."""
        text = str(error)
        for path in filter(None, (file, str(self.restored.path))):
            text = text.replace(path, Path(path).name)
        return gr.Error(html.escape(text, quote=False), print_exception=False)


COMMON = ("seed", "sampler", "sampler.steps", "grid", "threshold", "guidance", "guidance.scale", "label", "precision")


def guidances(restored: Restored) -> list[str]:
    """The run's guidance, no guidance and, for a model with labels, guidances whose weak estimate drops the label."""
    made = {name: choice("guidance", name) for name in choices("guidance")}
    return [RUN, *(name for name, node in made.items() if not node or (restored.labels and drops_labels(node)))]


def drops_labels(node: dict[str, Any]) -> bool:
    """Whether a guidance's weak estimate comes from the model itself without a label."""
    return bool(make({**node, "_partial_": True}, "guidance").func.drops_labels)


def effort_of(method: str) -> str | None:
    """The setting of a method of inpainting that says how long it takes: its passes or rounds."""
    known = (f"inpainting.{key}" for key in choice("inpainting", method))
    return next((key for key in known if key in NUMBERS), None)


def as_number(text: str) -> float | str:
    """The number that a user typed; other text is returned unchanged and rejected later."""
    try:
        return float(text)
    except ValueError:
        return text


def number(key: str, label: str, value: int, low: int | None = None) -> gr.Number:
    """A field for a whole number within its bounds, or from `low`. An empty field reaches the server as 0."""
    least, most = NUMBERS[key]
    return gr.Number(value, label=label, minimum=least if low is None else low, maximum=most, precision=0)


def build(restored: Restored, device: torch.device, data: ImageData | None) -> gr.Blocks:
    """Build the page of a model whose denoiser is on `device`; without `data`, no nearest training images are shown."""
    restrict_decoders()
    own, (_, height, width) = Page(restored, device, data), restored.shape
    with gr.Blocks(title="Studio", analytics_enabled=False) as blocks:
        gr.Markdown(f"# Studio\n{height}×{width} images, step {restored.step}, {restored.weights} weights")
        with gr.Row():
            seed = number("seed", "seed", 0)
            sampler = gr.Dropdown([RUN, *choices("sampler")], value=RUN, label="sampler")
            steps = number("sampler.steps", "steps (0: the sampler's)", 0, 0)
            grids = gr.Dropdown([USUAL, *choices("grid")], value="", label="grid")
            threshold = gr.Dropdown([USUAL, *choices("threshold")], value="", label="threshold")
            guidance = gr.Dropdown(guidances(restored), value=RUN, label="guidance")
            scale = gr.Textbox("", label="scale (empty: the guidance's)", max_lines=1)
            label = gr.Dropdown([USUAL, *restored.labels], value="", label="label")
            precision = gr.Dropdown([USUAL, *get_args(Mixed)], value="", label="precision")
        form = [seed, sampler, steps, grids, threshold, guidance, scale, label, precision]
        with gr.Row():
            stop, stopped = gr.Button("Stop"), gr.Markdown()
        stop.click(own.stop, None, stopped, queue=False, api_name="stop")
        with gr.Tab("Draw"):
            n = number("n", "images", 8)
            second = gr.Dropdown([NONE, *choices("sampler")], value=NONE, label="second sampler for comparison")
            go = gr.Button("Draw", variant="primary")
            outputs = []
            with gr.Row():
                for _ in range(2):
                    with gr.Column():
                        outputs += [gr.HTML(), gr.HTML()]
            go.click(own.draw, [second, n, *form], outputs, api_name="draw", concurrency_limit=2)
        with gr.Tab("Between two noises"):
            ends = [number("seed", "from seed", 0), number("seed", "to seed", 1)]
            frames = number("frames", "images", 8)
            go = gr.Button("Draw", variant="primary")
            go.click(own.between, [*ends, frames, *form], [gr.HTML(), gr.HTML()], api_name="between")
        with gr.Tab("Variants of a picture"):
            file = gr.File(label="a picture", type="filepath")
            strength = gr.Slider(*NUMBERS["strength"], value=0.6, label="strength")
            n = number("n", "images", 4)
            go = gr.Button("Draw", variant="primary")
            go.click(own.vary, [file, strength, n, *form], [gr.HTML(), gr.HTML()], api_name="vary")
        with gr.Tab("Fill a part"):
            file = gr.File(label="a picture", type="filepath")
            painted = gr.ImageMask(label="paint over the part to fill", type="numpy", sources=[])
            file.upload(own.canvas, file, painted, api_name="canvas")
            method = gr.Dropdown(choices("inpainting"), value=choices("inpainting")[0], label="method")
            most = max(NUMBERS[key][1] for key in filter(None, own.efforts.values()))
            effort = gr.Number(0, label="passes or rounds (0: the method's)", minimum=0, maximum=most, precision=0)
            n = number("n", "images", 4)
            go = gr.Button("Fill", variant="primary")
            go.click(own.fill, [file, painted, method, effort, n, *form], [gr.HTML(), gr.HTML()], api_name="fill")
    return blocks


def restrict_decoders() -> None:
    """Restrict Pillow to the allowed formats and size of user pictures, because gradio decodes painted masks itself."""
    Image.init()
    Image.ID[:] = [name for name in Image.ID if name in FORMATS]
    Image.MAX_IMAGE_PIXELS = PIXELS // 2  # Pillow raises above twice this value


def said(result: Result) -> str:
    """The command that reproduces the result, and a link that saves everything, as HTML."""
    kept = base64.b64encode(result.archive()).decode()
    link = f'<a download="drawn.zip" href="data:application/zip;base64,{kept}">save pictures and settings</a>'
    command = html.escape(str(result.record["command"]))
    return f'<p>Command to reproduce this:</p><pre style="white-space: pre-wrap">{command}</pre><p>{link}</p>'


def film(frames: Sequence[Image.Image]) -> str:
    """The steps as a GIF in HTML."""
    with TemporaryDirectory() as folder:
        made = gif([enlarged(frame) for frame in frames], Path(folder, "film.gif"))
        return embedded(made.read_bytes(), "gif", "the steps: noisy images on top, estimates below")


def picture(image: Image.Image, caption: str = "") -> str:
    """An image as HTML, embedded in the page."""
    made = io.BytesIO()
    image.save(made, "PNG")
    return embedded(made.getvalue(), "png", caption)


def embedded(data: bytes, kind: str, caption: str) -> str:
    """The bytes of an image as an HTML figure."""
    source, text = f"data:image/{kind};base64,{base64.b64encode(data).decode()}", html.escape(caption)
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


@contextmanager
def temporary_uploads() -> Iterator[None]:
    """A context where gradio keeps its files in a temporary folder."""
    with TemporaryDirectory(prefix="studio-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield


def serve(restored: Restored, device: torch.device, data: ImageData | None, host: str, port: int) -> None:
    """Serve the page until interrupted."""
    with temporary_uploads():
        build(restored, device, data).launch(server_name=host, server_port=port, **options())


def options() -> dict[str, Any]:
    """Options for serving the page: no public link, limited uploads, and no external fonts."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return {"share": False, "max_file_size": UPLOAD, "ssr_mode": False, "footer_links": [], "theme": theme}
