"""The guides work as written: the commands of docs/hour.md in order, the code of docs/library.md, and deploy/."""

import re
import shlex
import tomllib
from pathlib import Path
from string import Template

import pytest
import torch
import yaml

from diffusion.base.files import PACKAGE
from diffusion.data import Split
from diffusion.library import model as library
from diffusion.model import UNet

ROOT = PACKAGE.parent
SMALL = {  # added to each command, so that it takes a second
    "finetune": ["data.val=8", "data.test=8", "trainer.max_steps=2", "samples.n=0", "score.n=0"],
    "evaluate": ["n=8", "device=cpu", "baselines=[]"],
    "study": ["n=8", "device=cpu", "baselines=[]"],
}


def blocks(page: str, language: str) -> list[str]:
    """The code of a page."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.mark.slow
def test_the_commands_of_the_hour_run_in_order(command, two_steps, photos, tmp_path):
    for package in ("diffusers", "onnx", "onnxscript"):
        pytest.importorskip(package)
    names = {"demo": str(two_steps), "PHOTOS": str(photos)}
    for line in "".join(blocks("hour.md", "bash")).splitlines():
        _, name, *words = shlex.split(line, comments=True)
        if line.startswith("diffusion ") and name != "doctor":
            words = [re.sub(r"\w+", lambda word: names.get(word[0], word[0]), word) for word in words]
            status, out, err = command(name, [*words, *SMALL.get(name, [])])
            assert status == 0, f"{line}\n{out}{err}"
        if name == "finetune" and "-m" not in words:
            (run,) = (tmp_path / "outputs/finetune").iterdir()
            names["RUN"] = str(run)
    assert {"model", "page.html"} <= {path.name for path in tmp_path.iterdir()}
    assert (Path(names["RUN"]) / "test.json").is_file()


def test_the_code_of_the_library_page_runs(two_steps, tmp_path, monkeypatch):
    (tmp_path / "demo").symlink_to(two_steps)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        library, "split_of", lambda reference, split, like: Split(like.flip(-1), [*map(str, range(len(like)))])
    )
    first, loop = blocks("library.md", "python")
    names: dict = {}
    exec(first.replace("64", "8"), names)
    assert names["images"].shape == (8, 3, 8, 8)
    network = UNet(channels=[8, 16], attention=[False, True], groups=4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    names = {"network": network, "optimizer": optimizer, "device": "cpu", "batches": 2 * [torch.zeros(2, 3, 8, 8)]}
    before = network.out.bias.clone()
    exec(loop, names)
    assert not torch.equal(network.out.bias, before)
    assert names["images"].shape == (16, 3, 32, 32)


def test_the_skypilot_task_trains_and_goes_on(command, tiny, tmp_path):
    task = yaml.safe_load((ROOT / "deploy/sky.yaml").read_text("utf-8"))
    program, name, *words = shlex.split(Template(task["run"]).substitute(task["envs"] | {"RECIPE": "debug"}))
    (mounted,) = task["file_mounts"]
    words = [word.replace(mounted, str(tmp_path)) for word in words]
    assert program == ".venv/bin/diffusion"
    ran = [command(name, [*words, *tiny, f"trainer.max_steps={steps}"]) for steps in (2, 4)]
    assert [status for status, _, _ in ran] == [0, 0]
    assert "resuming from" in ran[1][1]


def test_the_container_has_all_that_the_program_is_built_from():
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "deploy/Dockerfile").read_text("utf-8"), re.MULTILINE)
    present = [ROOT / path for line in copied for path in line.split()]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    own = ["pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]]
    for path in (*own, *wheel["packages"], *wheel["force-include"]):
        assert any((ROOT / path).is_relative_to(each) for each in present), path


@pytest.mark.parametrize(
    "file", [".ci/run", "CONTRIBUTING.md", "README.md", "deploy/sky.yaml", *sorted(ROOT.glob(".github/*/*.yml"))]
)
def test_each_make_target_that_is_named_exists(file):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    text = (ROOT / file).read_text("utf-8")
    named = re.findall(r"(?:^|`|run: |^ *)make ([a-z-]+)", text, re.MULTILINE)
    named += [lane for lanes in re.findall(r"lane: \[(.+)\]", text) for lane in lanes.split(", ")]
    assert named
    assert {*named} <= {*targets}
