"""What `sample` and `evaluate` leave unsaid is the run's own: its scores are had again, and single settings change."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from diffusion import export
from diffusion.config.choices import conf_dir
from diffusion.data import Split
from diffusion.training.run import train

SCORED = ("score.n=9", "samples.n=5", "score.yardsticks=[]", "seed=3", "sampler=heun", "sampler.steps=3")
OWN = (*SCORED, "grid@sampler.grid=linspace", "metrics.kernel.subsets=7", "features=lite0")


@pytest.fixture(scope="module")
def own(tiny, tmp_path_factory) -> Path:
    """A run whose sampler, seed, n, features and metrics are not the defaults."""
    folder = tmp_path_factory.mktemp("own") / "run"
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        train(compose("train", [*tiny, *OWN, "trainer.max_steps=2", "name=own"]), folder)
    return folder


def scores(folder: Path) -> dict[str, dict]:
    return {r["metric"]: r for r in json.loads((folder / "scores.json").read_text())}


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_the_scores_of_a_run_are_had_again(command, own, tmp_path, suffix):
    file = own / "checkpoints/last.ckpt"
    if suffix == "safetensors":
        assert export.main([str(file), str(tmp_path / "last.safetensors")]) == 0
        file = tmp_path / "last.safetensors"
    status, out, err = command("evaluate", [f"ckpt={file}", "yardsticks=[]", "device=cpu", "hydra.run.dir=again"])
    assert status == 0, out + err
    again = scores(tmp_path / "again")
    assert again.keys() == scores(own).keys()
    for metric, record in scores(own).items():
        assert again[metric] | {"checkpoint": None} == record | {"checkpoint": None}


CHANGED = {
    "one setting": (["sampler.steps=2"], {"name": "Heun", "steps": 2}, "linspace"),
    "a part": (["grid@sampler.grid=karras", "sampler.grid.rho=3"], {"name": "Heun", "steps": 3}, "karras"),
    "another": (["sampler=ddim", "sampler.steps=2"], {"name": "DDIM", "steps": 2}, "uniform"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_single_settings_of_the_runs_own_change(command, own, tmp_path, name):
    words, expected, grid = CHANGED[name]
    common = [f"ckpt={own}/checkpoints/last.ckpt", "yardsticks=[]", "device=cpu", "metrics.kernel=null", "n=5"]
    status, out, err = command("evaluate", [*common, *words, "hydra.run.dir=look"])
    assert status == 0, out + err
    told = scores(tmp_path / "look")
    assert "kid_lite0" not in told
    assert expected.items() <= told["fd_lite0"]["sampler"].items()
    assert told["fd_lite0"]["sampler"]["grid"]["name"] == grid
    assert (told["fd_lite0"]["n"], told["fd_lite0"]["seed"]) == (5, 3)
    kept = OmegaConf.load(tmp_path / "look/config.yaml")
    assert kept.sampler.steps == expected["steps"]  # what was used, not that it was the run's
    assert kept.data is None


@pytest.mark.parametrize(
    ("word", "told"),
    {
        "sampler.stepz=2": "sampler.stepz: the run's sampler has no such setting (did you mean steps?)",
        "metrics.kernal=null": "did you mean kernel",
        "data.roots=x": "did you mean root",
        "sampler.steps=x": "sampler.steps=x: expected a whole number",
        "sampler.grid=null": "sampler.grid=null: one is needed, chosen with its place: grid@sampler.grid=…",
    }.items(),
)
def test_what_the_run_does_not_have_is_one_line(command, own, word, told):
    status, _, err = command("evaluate", [f"ckpt={own}/checkpoints/last.ckpt", "device=cpu", word])
    assert status == 2
    assert told in err
    assert err.count("\n") == 1


@pytest.fixture
def drawn(command, own, tmp_path) -> Path:
    """What `sample` leaves, trajectory and all."""
    words = [f"ckpt={own}/checkpoints/last.ckpt", "n=9", "trajectory=true", "device=cpu", "hydra.run.dir=drawn"]
    status, out, err = command("sample", words)
    assert status == 0, out + err
    return tmp_path / "drawn"


def look(command, folder: Path, *words: str) -> tuple[int, str, str]:
    common = ["features=lite0", "metrics.kernel.subsets=7", "yardsticks=[]", "device=cpu", "hydra.run.dir=look"]
    return command("evaluate", [f"images={folder}", *common, *words])


def test_images_of_sample_are_scored_as_the_checkpoint_is(command, own, drawn, photos, tmp_path):
    data = ["data=folder", f"data.root={photos}", "data.resolution=8", "data.val=8", "data.test=8"]
    status, out, err = look(command, drawn / "images", *data)
    assert status == 0, out + err
    assert len(list((drawn / "images").iterdir())) == 9
    (told,) = (r for r in scores(tmp_path / "look").values() if r["metric"] == "fd_lite0")
    assert told["value"] == pytest.approx(scores(own)["fd_lite0"]["value"], rel=1e-6)


def test_the_reference_has_the_images_own_size(command, drawn, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("diffusion.data.Landscapes.load", lambda self: asked.append(self.resolution) or small(self))
    status, out, err = look(command, drawn / "images")
    assert status == 0, out + err
    assert asked == [8]
    assert scores(tmp_path / "look")["fd_lite0"]["resolution"] == "8x8"


def small(data) -> dict[str, Split]:
    """Noise in the place of the landscapes."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, data.resolution, data.resolution), dtype=np.uint8)
    return {name: Split(torch.from_numpy(pixels), list("abcdefgh")) for name in ("train", "val", "test")}


def test_what_cannot_be_scored_in_a_folder_is_one_line(command, drawn, tmp_path):
    (tmp_path / "two").mkdir()
    for side in (8, 9):
        Image.new("RGB", (side, side)).save(tmp_path / f"two/{side}.png")
    for folder, words, told in (
        (tmp_path / "two", [], "(8.png of 8x8, 9.png of 9x9)"),
        (drawn, [], "its images are not squares of one size (grid.png of "),
        (drawn / "images", ["n=10"], "n=10: "),
        (tmp_path / "nowhere", [], "images="),
        (drawn / ".hydra", [], "set images to a folder"),
    ):
        status, _, err = look(command, folder, *words)
        assert status == 2
        (line,) = (line for line in err.splitlines() if "━" not in line)
        assert line.startswith("error: ")
        assert told in line
        assert "data.root" not in line
