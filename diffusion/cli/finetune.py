"""Fine-tune a trained model on your own photographs.

diffusion finetune RUN PHOTOS                           all settings but those of the images are those of RUN
diffusion finetune demo PHOTOS                          from the bundled model, without training one first
diffusion finetune RUN PHOTOS trainer.max_steps=2000    any setting of diffusion train

RUN is a run, a checkpoint, an exported file, a diffusers folder, `last` or `demo`; PHOTOS is a folder of images. The
images get the size of those of RUN, and a few large photographs are cut into tiles. The page of the new run shows
samples before and after the fine-tuning. The defaults listed below are those of diffusion train; here, RUN has its own.
"""

import sys
from dataclasses import replace
from statistics import median
from typing import Any

from diffusion.base.console import console, count
from diffusion.config.messages import HELP
from diffusion.config.schema import Train
from diffusion.errors import given_as, shown
from diffusion.runs.command import Command
from diffusion.runs.launch import Launch
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


def finetune(settings: Train, launch: Launch) -> Any:
    """Train with the settings that `tuned` has made; the run records the words as they were typed."""
    more = [word for word in launch.words if not word.startswith(("init=", "data.root="))]
    words = [str(settings.init), str(settings.data["root"]), *more]
    return jobs.start(settings, replace(launch, command="finetune", words=words))


def tuned(values: dict[str, Any], launch: Launch) -> dict[str, Any]:
    """Composed settings with all those of the model that `init` names, but for the images and what is given."""
    from diffusion.training.resume import SIZE, inherited

    with given_as("", "init", "data.root"):  # which the user has not typed
        values = inherited(values, launch, "finetune", (*SIZE, *KEPT))
        if not launch.gives("data.tiles"):
            values["data"]["tiles"] = few_and_large(values["data"])
    if not launch.gives("trainer.max_steps", "trainer.max_epochs"):
        values["trainer"] |= {"max_steps": STEPS, "max_epochs": -1}
    if not launch.gives("optimizer", "optimizer.lr"):
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


PLACE = "diffusion.cli.finetune"
compose_and_finetune = Command("train", Train, __doc__, f"{PLACE}.finetune", "finetune", f"{PLACE}.tuned")
