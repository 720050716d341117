"""Which sampler, with how many steps: `python -m diffusion.study sampler ckpt=… samplers=[ddim,dpm_2m] nfe=[10,20]`."""

import sys

from omegaconf import DictConfig

from diffusion.config.command import command, output_folder
from diffusion.errors import nearest

STUDIES = ("sampler",)  # what can be studied, the first word


@command("study")
def study(cfg: DictConfig) -> None:
    from diffusion.evaluation.study import study  # torch only when there is something to do

    study(cfg, output_folder())


def main() -> None:
    """Take the study's name off the command line, which Hydra would take for an override without a value."""
    word = next(iter(sys.argv[1:]), "-")
    if word in STUDIES:
        del sys.argv[1]
    elif not word.startswith("-"):
        what = "names no study" if "=" in word else f"there is no such study{nearest(word, STUDIES)}"
        print(f"error: {word}: {what}; the first word is one of: {', '.join(STUDIES)}", file=sys.stderr)
        sys.exit(2)
    study()


if __name__ == "__main__":
    main()
