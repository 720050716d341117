"""Fine-tune a trained model on your own photographs.

diffusion finetune RUN PHOTOS                           all settings but those of the images are those of RUN
diffusion finetune demo PHOTOS                          from the bundled model, without training one first
diffusion finetune RUN PHOTOS trainer.max_steps=2000    any setting of diffusion train

RUN is a run, a checkpoint, an exported file, a diffusers folder, `last` or `demo`; PHOTOS is a folder of images. The
images get the size of those of RUN, and a few large photographs are cut into tiles. The page of the new run shows
samples before and after the fine-tuning. The defaults listed below are those of diffusion train; here, RUN has its own.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from diffusion.base.console import console, count
from diffusion.config.messages import HELP
from diffusion.config.schema import Train
from diffusion.errors import given_as, shown
from diffusion.runs.command import command
from diffusion.training import jobs

STEPS, RATE = 500, 0.3  # optimizer steps; fraction of the learning rate of RUN: see docs/recipes.md
KEPT = "batch_size", "global_batch_size", "eval_batch_size", "flip"  # of the images of RUN, besides their size
FEW = 300  # photographs; from here on, more of them make no difference (docs/results/photographs)


def main() -> None:
    words = sys.argv[1:]
    if not {*HELP} & {*words}:
        if len(words) < 2 or "-" in (words[0][:1], words[1][:1]):
            print("error: expected a model and a folder of images: diffusion finetune RUN PHOTOS", file=sys.stderr)
            sys.exit(2)
        words = [f"init={shown(words[0])}", f"data.root={shown(words[1])}", *words[2:]]
    with jobs.ending_on_signals():
        compose_and_finetune(words)


def finetune(settings: Train, folder: Path, words: list[str], work: Callable[..., Any] = jobs.start) -> Any:
    """Train with the settings that `tuned` has made."""
    typed = [word for word in words if not word.startswith(("init=", "data.root="))]
    return work(settings, folder, [str(settings.init), str(settings.data["root"]), *typed], name="finetune")


def tuned(values: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """Composed settings with all those of the model that `init` names, but for the images and what is given."""
    from diffusion.training.resume import SIZE, inherited

    given = {word.lstrip("+").partition("=")[0] for word in words}
    with given_as("", "init", "data.root"):  # which the user has not typed
        values = inherited(values, words, "finetune", (*SIZE, *KEPT))
        if "data.tiles" not in given:
            values["data"]["tiles"] = few_and_large(values["data"])
    if not {"trainer.max_steps", "trainer.max_epochs"} & given:
        values["trainer"] |= {"max_steps": STEPS, "max_epochs": -1}
    if not {"optimizer", "optimizer.lr"} & given:
        values["optimizer"]["lr"] *= RATE
    return values


def few_and_large(data: dict[str, Any]) -> bool | None:
    """The value of data.tiles that suits the photographs, by the sizes in the headers of their files; it is printed."""
    from diffusion.base.pixels import height_width
    from diffusion.data.folder import SMALLEST, Folder, sizes

    if not (sides := [min(size) for size in sizes(Folder(root=data["root"], resolution=1).source())]):
        return None
    least, side = max(SMALLEST, *height_width(data["resolution"])), round(median(sides))
    tiles = True if len(sides) < FEW and side >= 2 * least else None
    chosen = "few and large, so each is cut into tiles" if tiles else "each is one image of the training"
    console.print(f"{count(len(sides), 'image file')}, short side {side} pixels: {chosen} (data.tiles={shown(tiles)})")
    return tiles


as_job = partial(finetune, work=jobs.run_job)
compose_and_finetune = command("train", Train, __doc__, finetune, as_job, "finetune", "diffusion.cli.finetune.tuned")
