"""`python -m diffusion.export CHECKPOINT [FILE.safetensors]`: a model to share, in a format that cannot hold code."""

import sys
from argparse import ArgumentTypeError
from pathlib import Path

from diffusion.errors import Arguments, exit_status

ABOUT = """\
Write the weights of a checkpoint and their configuration as one safetensors file. `sample` and `evaluate` read it like
a checkpoint (ckpt=FILE.safetensors); training cannot be resumed from it.
"""


def main(arguments: list[str] | None = None) -> int:
    """Write the file; 0, or 2 with one line on stderr."""
    parser = Arguments("export", ABOUT)
    parser.add_argument("checkpoint", help="a checkpoint, a run's folder, or `last`")
    parser.add_argument("file", type=Path, nargs="?", help="default: the checkpoint's name with .safetensors")
    parser.add_argument(
        "--weights", type=_weights, default="ema", help="ema (default), raw, or a length of a run with ema=power: 0.08"
    )
    parser.add_config_dir()
    chosen = parser.parse_args([word.removeprefix("ckpt=") for word in arguments or sys.argv[1:]])

    def export() -> None:
        from diffusion.checkpoint import exported, find, restore  # torch, only when there is something to do
        from diffusion.config.choices import searching

        with searching([chosen.config_dir]):
            model = restore.restore(find.trained(chosen.checkpoint), chosen.weights)
        file = chosen.file or model.path.with_suffix(".safetensors")
        weights = model.denoiser.network.state_dict()
        print(exported.write(file, weights, model.config, model.step, model.epoch, model.weights, model.labels))

    return exit_status(export, "choose a file you can write")


def _weights(word: str) -> str | float:
    try:
        return word if word in ("ema", "raw") else float(word)
    except ValueError as error:
        raise ArgumentTypeError(f"{word}: expected ema, raw, or a length such as 0.08") from error


if __name__ == "__main__":
    sys.exit(main())
