"""Draw images from a checkpoint: `python -m diffusion.sample ckpt=… n=64 sampler=ddim sampler.steps=50 seed=0`."""

from omegaconf import DictConfig

from diffusion.config import inherit as own
from diffusion.config.command import command, output_folder

own.register()


@command("sample")
def main(cfg: DictConfig) -> None:
    from diffusion.evaluation.commands import sample  # torch only when there is something to do

    sample(cfg, output_folder())


if __name__ == "__main__":
    main()
