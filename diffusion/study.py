"""Which sampler, with how many steps: `python -m diffusion.study ckpt=… samplers=[ddim,dpm_2m] nfe=[10,20,50]`."""

from omegaconf import DictConfig

from diffusion.command import command, output_folder


@command("study")
def main(cfg: DictConfig) -> None:
    from diffusion.training.study import study  # torch only when there is something to do

    study(cfg, output_folder())


if __name__ == "__main__":
    main()
