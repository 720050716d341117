"""Make the bundled models: weights of runs in half precision, as runs' folders of which only these are kept.

    diffusion train experiment=demo seed=0 hydra.run.dir=DEMO      # ten to fifteen minutes on two cores
    python docs/pretrained.py DEMO demo
    diffusion train experiment=superres 'model.channels=[16,32,128]' hydra.run.dir=SUPER    # 40 minutes of one core
    python docs/pretrained.py SUPER super

It writes config.yaml and the averaged weights of the last step to diffusion/pretrained/NAME, and for the demo those of
step 840, too, which guide its samples. docs/data.md says what half precision changes. A machine that rounds differently
trains a model with other digits and the same errors; tests/training/test_pretrained.py trains the demo again and
compares them.
"""

import shutil
import sys
from pathlib import Path

from diffusion.base.files import PACKAGE
from diffusion.checkpoint import storage
from diffusion.checkpoint.find import at_step, trained
from diffusion.checkpoint.restore import restore


def main(run: Path, folder: Path) -> None:
    """Write the folder of a bundled model from that of its run."""
    last, checkpoints = trained(run), folder / "checkpoints"
    files = {checkpoints / "last.safetensors": last}
    if step := restore(last).facts.guidance_step:
        files[storage.early_file(checkpoints, step)] = at_step(last.parent, step)
    for file, source in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        halved(source, file)
    shutil.copy(run / "config.yaml", folder)


def halved(source: Path, file: Path) -> None:
    """Write a checkpoint's weights in half precision, as `diffusion export` does."""
    model = restore(source)
    halves = {name: weight.half() for name, weight in model.denoiser.network.state_dict().items()}
    storage.export(file, halves, model.about)


if __name__ == "__main__":
    main(Path(sys.argv[1]), PACKAGE / "pretrained" / sys.argv[2])
