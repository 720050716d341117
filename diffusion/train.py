"""Train a diffusion model: `python -m diffusion.train [group=choice …] [key=value …]`; --help lists all of them."""

from omegaconf import DictConfig

from diffusion.command import command, output_folder


@command("train")
def main(cfg: DictConfig) -> float | None:
    from diffusion.training.run import train  # torch and Lightning only when a run starts

    return train(cfg, output_folder())


if __name__ == "__main__":
    main()
