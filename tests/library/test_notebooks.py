"""The notebooks of docs/: their cells run in order, with a small model in place of the bundled one."""

import json
import re
import shlex
import sys

import matplotlib
import pytest

from diffusion.base.files import PACKAGE
from diffusion.data import Split
from diffusion.doors.zoo import RELEASE
from diffusion.library import model as library

FEW = ("trainer.max_steps=2", "trainer.val_check_interval=1", "samples.n=0", "score.n=0")


@pytest.fixture
def names_of(ran, two_steps, tiny, tmp_path, monkeypatch):
    """`names_of("tour")`: the variables of docs/tour.ipynb after its cells have run in an empty folder."""
    small = {"train": [*tiny, *FEW], "finetune": FEW, "sample": ["n=2", "then=[]"]}  # `super` enlarges 32×32 alone
    shown = []

    def shell(line):
        _, name, *words = shlex.split(line)
        ran(name, [*words, *small.get(name, [])])

    def run(notebook):
        cells = json.loads((PACKAGE.parent / f"docs/{notebook}.ipynb").read_text("utf-8"))["cells"]
        repository = RELEASE.removeprefix("https://github.com/").partition("/releases/")[0]
        assert f"/github/{repository}/blob/main/docs/{notebook}.ipynb)" in "".join(cells[0]["source"])  # Colab
        names = {"__name__": notebook, "display": shown.append, "shown": shown, "shell": shell}
        for cell in (cell for cell in cells if cell["cell_type"] == "code"):
            text = "".join(cell["source"])
            assert cell["outputs"] or re.search(r"^class |%pip ", text, re.M)  # a page without a kernel reads well
            text = re.sub(r"^!(.+)$", r"shell(f'''\1''')", text.replace("128", "8"), flags=re.M)
            exec(re.sub("%pip .+", "raise AssertionError('it is installed')", text), names)
        return names

    (tmp_path / "demo").symlink_to(two_steps)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    matplotlib.use("agg")
    return run


def test_the_tour(names_of, monkeypatch):
    monkeypatch.setattr(
        library, "split_of", lambda reference, split, like: Split(like.flip(-1), [*map(str, range(len(like)))])
    )
    names = names_of("tour")
    assert len(names["shown"]) == 2
    assert names["rows"]["mine, 8 steps"].shape == (8, 3, 8, 8)
    assert {"fit/mse", "val/mse"} <= names["run"].metrics.keys()


def test_the_training_on_photographs(names_of, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")  # otherwise it would be installed
    monkeypatch.setattr("diffusion.extras.web.network_onnx", lambda *_: b"")
    names = names_of("finetune")
    before, after = names["rows"]
    assert before.shape == after.shape == (8, 3, 8, 8)
    assert not before.equal(after)
    assert len([*(tmp_path / "photographs").iterdir()]) == 7
    assert (names["samples"] / "grid.png").is_file()
    assert (tmp_path / "photographs.html").is_file()
