"""Train a diffusion model: `python -m diffusion.train [group=choice …] [key=value …]`; --help lists all of them."""

from diffusion.runs import early_signals as early

if __name__ == "__main__":
    early.watch()  # before the imports that take long

from pathlib import Path

from omegaconf import DictConfig

from diffusion.config.command import command, output_folder
from diffusion.runs import jobs as sweep


def train(cfg: DictConfig, folder: Path) -> float | None:
    """Run the configuration, leaving everything in `folder`."""
    from diffusion.training import run  # torch and Lightning only when a run starts

    return run.train(cfg, folder)


@command("train")
def main(cfg: DictConfig) -> float | None:
    return sweep.run(train, cfg, output_folder())


if __name__ == "__main__":
    main()
