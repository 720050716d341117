"""Score a checkpoint or a folder of images: `python -m diffusion.evaluate ckpt=… split=test`, or `images=FOLDER`."""

from omegaconf import DictConfig

from diffusion import own
from diffusion.command import command, output_folder

own.register()


@command("evaluate")
def main(cfg: DictConfig) -> None:
    from diffusion.training.commands import evaluate  # torch only when there is something to do

    evaluate(cfg, output_folder())


if __name__ == "__main__":
    main()
