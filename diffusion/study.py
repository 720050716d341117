"""Compare samplers on one trained model: scores against network evaluations and seconds.

python -m diffusion.study sampler ckpt=RUN                                    four samplers, 10 to 50 evaluations
python -m diffusion.study sampler ckpt=… samplers=[ddim,heun] nfe=[20,100]    choose them
python -m diffusion.study sampler ckpt=… 'samplers=[dpm_2m,"dpm_2m grid@sampler.grid=karras"]'   one on two grids
"""

import sys
from pathlib import Path

from diffusion.config import inherit
from diffusion.config.schema import Study
from diffusion.errors import nearest
from diffusion.runs.command import command

STUDIES = ("sampler",)  # what can be studied: the first word of the command line

inherit.register()  # a study composes samplers as diffusion.sample does


def study(settings: Study, folder: Path) -> None:
    """Write the study into `folder`."""
    from diffusion.evaluation.study import study_samplers  # torch, only when there is something to do

    study_samplers(settings, folder)


compose_and_study = command("study", Study, __doc__, study)


def main() -> None:
    """Take the study's name off the command line, because Hydra would read it as an override without a value."""
    word = next(iter(sys.argv[1:]), "-")
    if word in STUDIES:
        del sys.argv[1]
    elif not word.startswith("-"):
        what = "names no study" if "=" in word else f"there is no such study{nearest(word, STUDIES)}"
        print(f"error: {word}: {what}; the first word is one of: {', '.join(STUDIES)}", file=sys.stderr)
        sys.exit(2)
    compose_and_study()


if __name__ == "__main__":
    main()
