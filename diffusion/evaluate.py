"""Score a trained model, or a folder of images, against real images.

python -m diffusion.evaluate ckpt=RUN split=val                           the scores of a run, again
python -m diffusion.evaluate ckpt=… n=2048 sampler.steps=100              more samples, more steps
python -m diffusion.evaluate images=FOLDER split=test                     images from anywhere, such as SAMPLES/images
"""

from pathlib import Path

from diffusion.config import inherit
from diffusion.config.schema import Evaluate
from diffusion.console import console
from diffusion.runs.command import command
from diffusion.runs.importing import importing

inherit.register()


def evaluate(settings: Evaluate, folder: Path) -> None:
    """Write scores.json into `folder`."""
    with importing():
        from diffusion.evaluation import commands

    commands.evaluate(settings, folder)


def evaluate_job(settings: Evaluate, folder: Path) -> None:
    """The same for a job of a sweep; one that is complete is not run again."""
    with importing():
        from diffusion.evaluation import commands

    if commands.is_complete(settings, folder):
        console.print(f"{folder} is complete already")
    else:
        evaluate(settings, folder)


main = command("evaluate", Evaluate, __doc__, evaluate, job=evaluate_job)

if __name__ == "__main__":
    main()
