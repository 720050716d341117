"""Export a model in a format that cannot contain code: by default, one safetensors file with its configuration.

`sample` and `evaluate` read it like a checkpoint (ckpt=FILE.safetensors); training cannot resume from it, but can start
from it (init=FILE.safetensors). With --format diffusers, write a folder that diffusers reads too:
DiffusionPipeline.from_pretrained(FOLDER); models with parts that diffusers lacks are refused. With --format web,
write one HTML file that draws pictures in any browser, without a server: the run's page with the network inside.
"""

import sys
from pathlib import Path

from diffusion.errors import Arguments, UserError

SUFFIXES = {"safetensors": ".safetensors", "diffusers": "-diffusers", "web": ".html"}


def main(arguments: list[str] | None = None) -> int:
    """Write the file or folder. Returns 0, or 2 after printing one line to stderr."""
    parser = Arguments("export", __doc__)
    parser.add_argument("checkpoint", help="a checkpoint, a run's folder, or `last`")
    parser.add_argument("file", type=Path, nargs="?", help="default: the checkpoint's name with the format's suffix")
    parser.add_weights()
    parser.add_argument("--format", choices=[*SUFFIXES], default="safetensors", help="default: safetensors")
    parser.add_argument("--sampler", metavar="CHOICE", help="instead of the run's, such as 'ddim sampler.steps=20'")
    parser.add_config_dir()
    return parser.run(export, [word.removeprefix("ckpt=") for word in arguments or sys.argv[1:]])


def export(
    checkpoint: str, file: Path | None, weights: str | float, format: str, sampler: str | None, config_dir: str | None
) -> None:
    """Write what the command line asks for, and print its path."""
    from diffusion.checkpoint import diffusers_folder, find, restore, storage
    from diffusion.config.choices import choice, searching

    with searching([config_dir]):
        model = restore.restore(find.trained(checkpoint), weights)
        if sampler:
            model.config["sampler"] = choice("sampler", sampler)
    place = Path(checkpoint) if model.path.is_relative_to(find.BUNDLED) else model.path
    file = file or place.with_name(place.stem + SUFFIXES[format])
    if file.is_file() and b"diffusion-experiments" not in file.read_bytes()[: 1 << 20]:
        raise UserError(f"{file}: a file that diffusion has not written; choose another name")
    if format == "safetensors":
        print(storage.export(file, model.denoiser.network.state_dict(), model.about))
        return
    if format == "diffusers":
        print(f"{file}\n  {diffusers_folder.write(file, model)}")
    else:
        from diffusion.evaluation.web import write_web

        print(write_web(file, model))
    if model.config.get("guidance"):
        print("  it draws without the run's guidance")


if __name__ == "__main__":
    sys.exit(main())
