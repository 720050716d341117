"""Make the files of the zoo from the runs of its study: weights in half precision, a card and samples of each.

    diffusion reproduce zoo                        # trains the models: about 2 hours of a CPU core
    python -m docs.zoo outputs/results/zoo         # docs/zoo, and the checksums in diffusion/pretrained/zoo.json
    gh release create zoo-1 docs/zoo/*             # publishes them where `ckpt=zoo:NAME` looks

The model `super` of the study comes with the package (docs/pretrained.py), so it has a card and samples only.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from diffusion.base.files import PACKAGE
from diffusion.checkpoint.find import trained
from diffusion.checkpoint.restore import restore
from diffusion.extras.card import write_card
from docs.pretrained import halved

OUT = Path(__file__).with_name("zoo")
LICENCES = dict.fromkeys(
    ("landscapes64", "super", "superres128"),
    "CC BY-SA 4.0, the strictest of the photographs' licences; their authors are in the program's docs/photographs.md.",
) | {"points": "MIT, as the program."}


def main(runs: Path) -> None:
    """Write NAME.safetensors, NAME.md and NAME.png of each model, and their checksums."""
    OUT.mkdir(exist_ok=True)
    sums = {}
    for name, licence in LICENCES.items():
        run, file = runs / name / "0", OUT / f"{name}.safetensors"
        if name != "super":
            halved(trained(run), file)
            sums[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(run / "samples/final.png", OUT / f"{name}.png")
        with TemporaryDirectory() as folder:
            write_card(Path(folder), name if name == "super" else f"zoo:{name}", restore(trained(run)), licence=licence)
            card = (Path(folder) / "README.md").read_text("utf-8").replace("(samples.png)", f"({name}.png)")
            card = card.replace("the folder [licences](./licences)", "[LICENSE](LICENSE)")
            for file in Path(folder).glob("licences/*"):
                shutil.copy(file, OUT)
        (OUT / f"{name}.md").write_text(card, "utf-8")
    (PACKAGE / "pretrained/zoo.json").write_text(json.dumps(sums, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
