"""The command `diffusion NAME …`, the same as `python -m diffusion NAME …`, and the list of all commands.

Only the chosen command is imported.
"""

import os
import runpy
import sys
from importlib import import_module

from diffusion.base.files import code_version
from diffusion.errors import nearest

COMMANDS = {  # by what a user wants: the name of a command, and what it does
    "Make a model": {
        "train": "train a model on images, resume a run, or run a sweep",
        "finetune": "go on from a trained model with your own photographs",
        "new": "write a network, sampler or other part of your own, with its test",
    },
    "Use it": {
        "sample": "draw images",
        "edit": "vary a picture, fill a part of it, or interpolate between two noises",
        "studio": "the same in a page of the browser",
        "export": "write the model to one file, a diffusers folder, a web page or the Hub",
    },
    "Judge it": {
        "evaluate": "score a model, or a folder of images, against real images",
        "study": "compare samplers or guidance scales on one model",
        "compare": "compare runs and sweeps",
        "reproduce": "run a published study again",
        "race": "train a recipe under a fixed budget, and compare it with the record",
    },
    "Look after runs": {
        "watch": "the pages of all runs in the browser, updated while they train",
        "status": "list the runs: state, time left, score",
        "report": "draw the page and the figures of a run or a sweep again",
        "prune": "delete checkpoints that are no longer needed",
    },
    "Set up": {
        "doctor": "check the installation: versions, devices, disk, extras",
        "completion": "complete commands and settings in the shell",
    },
}
BESIDE = ("race", "reproduce")  # the main job: in diffusion.extras
NAMES = [name for commands in COMMANDS.values() for name in commands]

ABOUT = """\
Diffusion models on images: train, sample, edit and compare them.

  diffusion sample ckpt=demo          36 images from the model that comes with the program, in seconds
  diffusion train experiment=demo     train this model, in a few minutes on any machine
  diffusion finetune demo PHOTOS      make it a model of your own photographs
"""


def module_of(name: str) -> str:
    """The module of a command; that of `train` is on top, because `python -m diffusion.train` is the same."""
    if name == "train":
        return "diffusion.train"
    return f"diffusion.{'extras' if name in BESIDE else 'cli'}.{name}"


def main() -> None:
    """Run the command that is named first on the command line; without one, list all."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        from diffusion.base.console import console

        console.print(ABOUT)
        for title, commands in COMMANDS.items():
            console.print(title, *(f"  {each:<11} {about}" for each, about in commands.items()), sep="\n", end="\n\n")
        console.print("diffusion COMMAND --help explains a command.")
    elif name == "--version":
        print(code_version())
    elif name not in NAMES:
        sys.stderr.write(f"error: {name}: no such command{nearest(name, NAMES)}; diffusion --help lists all\n")
        sys.exit(2)
    else:
        if not sys.flags.safe_path and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # as `python -m` does: for the user's own classes
        sys.argv = [name, *words]
        try:
            if name == "train":
                runpy.run_module(module_of(name), run_name="__main__", alter_sys=True)
            else:
                sys.exit(import_module(module_of(name)).main())
        except KeyboardInterrupt:  # while modules are imported
            sys.exit(130)


if __name__ == "__main__":
    main()
