"""Draw images from a trained model.

python -m diffusion.sample ckpt=RUN                                             64 images with the run's sampler
python -m diffusion.sample ckpt=… n=64 sampler=ddim sampler.steps=50 seed=0     another sampler
python -m diffusion.sample ckpt=… n=8 trajectory=true                           also save the denoising steps
"""

from pathlib import Path

from diffusion.config import inherit
from diffusion.config.schema import Sample
from diffusion.runs.command import command
from diffusion.runs.importing import importing

inherit.register()


def sample(settings: Sample, folder: Path) -> None:
    """Draw samples into `folder`."""
    with importing():
        from diffusion.evaluation.commands import draw_samples

    draw_samples(settings, folder)


main = command("sample", Sample, __doc__, sample)

if __name__ == "__main__":
    main()
