"""Score a trained model, or a folder of images, against real images.

python -m diffusion.evaluate ckpt=RUN split=val                           score a run again
python -m diffusion.evaluate ckpt=… n=2048 sampler.steps=100              more samples, more steps
python -m diffusion.evaluate images=FOLDER split=test                     images from any source, e.g. SAMPLES/images
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
    """Run `evaluate` as a job of a sweep, unless the job is already complete."""
    with importing():
        from diffusion.evaluation import commands

    if commands.is_complete(settings, folder):
        console.print(f"{folder} is already complete")
    else:
        evaluate(settings, folder)


main = command("evaluate", Evaluate, __doc__, evaluate, job=evaluate_job)

if __name__ == "__main__":
    main()
