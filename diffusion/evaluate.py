"""Score a checkpoint or a folder of images: `python -m diffusion.evaluate ckpt=… split=test`, or `images=FOLDER`."""

from omegaconf import DictConfig

from diffusion.config import inherit as own
from diffusion.config.command import command, output_folder

own.register()


@command("evaluate")
def main(cfg: DictConfig) -> None:
    from diffusion.evaluation.commands import evaluate  # torch only when there is something to do

    evaluate(cfg, output_folder())


if __name__ == "__main__":
    main()
