"""Make the bundled model: the weights of the demo in half precision, as a run's folder of which only these are kept.

    diffusion train experiment=demo seed=0 hydra.run.dir=DEMO      # ten to fifteen minutes on two cores
    python docs/pretrained.py DEMO

It writes config.yaml, the averaged weights of the last step, and those of step 840, which guide its samples, to
diffusion/pretrained/demo. docs/data.md says what half precision changes. A machine that rounds differently trains a
model with other digits and the same errors; tests/training/test_pretrained.py trains the demo again and compares them.
"""

import shutil
import sys
from pathlib import Path

from diffusion.base.files import PACKAGE
from diffusion.checkpoint import storage
from diffusion.checkpoint.find import at_step, trained
from diffusion.checkpoint.restore import restore


def main(run: Path, folder: Path = PACKAGE / "pretrained/demo") -> None:
    """Write the folder of the bundled model from that of its run."""
    last = trained(run)
    step = restore(last).facts["guidance_step"]
    checkpoints = folder / "checkpoints"
    storage.early_file(checkpoints, step).parent.mkdir(parents=True, exist_ok=True)
    for file, source in {
        checkpoints / "last.safetensors": last,
        storage.early_file(checkpoints, step): at_step(last.parent, step),
    }.items():
        model = restore(source)
        halves = {name: weight.half() for name, weight in model.denoiser.network.state_dict().items()}
        storage.export(file, halves, model.about)
    shutil.copy(run / "config.yaml", folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
