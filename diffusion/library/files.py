"""What commands write beside scores: the images of a model, and the configuration that made them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from torch import Tensor

from diffusion.base import files
from diffusion.base.console import console, count
from diffusion.base.images import in_threads
from diffusion.base.pixels import save_png
from diffusion.checkpoint.find import BUNDLED, run_folder
from diffusion.checkpoint.restore import Restored
from diffusion.config.schema import Settings
from diffusion.runs.record import CONFIG
from diffusion.sampling.drawing import Drawing


def save_images(
    folder: Path, images: Tensor, picture: Image.Image, drawing: Drawing, restored: Restored,
    own: Sequence[Image.Image] | None = None, named: str = "", like: str = "",
) -> None:  # fmt: skip
    """Write images (n, C, *size) into images/ as the kind does, their picture, and images.npz, with seed and classes.

    `own`, if given, are written to images/*.png instead. images.npz contains (n, *size, C) as arr_0, and classes as
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
        save_png(own[i], stem.with_suffix(".png")) if own else kind.save(images[i], stem, like)

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
    sides = ("L", "H×W", "D×H×W")[images.ndim - 3]
    console.print(f"  images/, images.npz ({images.numpy().dtype}, N×{sides}×C), {pictures}")


def write_configuration(folder: Path, settings: Settings, restored: Restored | None = None) -> None:
    """Write config.yaml for comparisons: the settings and, of a checkpoint, its step, training recipe and facts.

    In the folder of a training run, the run's own config.yaml is kept.
    """
    chosen = settings.model_dump(mode="json")
    if restored is not None:
        file = chosen["ckpt"] if BUNDLED in restored.path.parents else str(restored.path)
        chosen |= {"ckpt": file, "step": restored.step, "recipe": restored.config, "facts": restored.facts.written()}
        if chosen.get("data") == restored.config["data"]:
            chosen["data"] = None
    if not (folder / "run.json").is_file():
        files.replace(folder / CONFIG, yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True))


def run_of(restored: Restored, folder: Path) -> Path:
    """The folder where a run's evaluations on the test split are recorded: its own, but of a bundled model `folder`."""
    return folder if BUNDLED in restored.path.parents else run_folder(restored.path)
