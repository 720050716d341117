"""The notebook docs/tour.ipynb: its cells run in order, with a small model in place of the bundled one."""

import json
import sys

import matplotlib

from diffusion import library
from diffusion.base.files import PACKAGE
from diffusion.data import Split

FEW = ("trainer.max_steps=2", "trainer.val_check_interval=1", "samples.n=0")


def test_every_cell_runs(command, two_steps, tiny, tmp_path, monkeypatch):
    cells = json.loads((PACKAGE.parent / "docs/tour.ipynb").read_text("utf-8"))["cells"]
    (tmp_path / "demo").symlink_to(two_steps)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(
        library, "split_of", lambda reference, split, like: Split(like.flip(-1), [*map(str, range(len(like)))])
    )
    matplotlib.use("agg")
    shown = []
    names = {"__name__": "tour", "display": shown.append}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        assert cell["outputs"] or "\nclass " in "".join(cell["source"])  # a page without a kernel reads well
        if cell["source"][0].startswith("!diffusion "):
            _, name, *words = cell["source"][0].split()
            assert command(name, [*words, *tiny, *FEW])[0] == 0
        else:
            exec("".join(cell["source"]).replace("128", "8"), names)
    assert len(shown) == 2
    assert names["rows"]["mine, 8 steps"].shape == (8, 3, 8, 8)
    assert {"fit/mse", "val/mse"} <= names["run"].metrics.keys()
