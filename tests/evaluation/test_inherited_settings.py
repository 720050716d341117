"""`sample` and `evaluate` inherit the run's settings: they reproduce its scores, and single settings can be changed."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from composing import train
from omegaconf import OmegaConf
from PIL import Image

from diffusion import export
from diffusion.config.build import make
from diffusion.config.composition import composed, plain
from diffusion.config.inherit import completed
from diffusion.config.schema import Evaluate
from diffusion.config.validation import validated
from diffusion.data import Split
from diffusion.evaluation import commands
from diffusion.model.unet import UNet

SCORED = ("score.n=9", "samples.n=5", "score.baselines=[]", "seed=3", "sampler=heun", "sampler.steps=3")
CUSTOM = (
    *SCORED,
    "grid@sampler.grid=linspace",
    "metrics.kernel.subsets=7",
    "features=lite0",
    "matmul_precision=highest",
)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory) -> Path:
    """A run with a sampler, seed, n, features and metrics other than the defaults."""
    folder = tmp_path_factory.mktemp("custom") / "run"
    train([*tiny, *CUSTOM, "trainer.max_steps=2"], folder)
    return folder


def scores(folder: Path) -> dict[str, dict]:
    return {r["metric"]: r for r in json.loads((folder / "scores.json").read_text())}


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_evaluate_reproduces_the_scores_of_the_run(command, run, tmp_path, suffix):
    file = run / "checkpoints/last.ckpt"
    if suffix == "safetensors":
        assert export.main([str(file), str(tmp_path / "last.safetensors")]) == 0
        file = tmp_path / "last.safetensors"
    status, out, err = command("evaluate", [f"ckpt={file}", "baselines=[]", "device=cpu", "hydra.run.dir=again"])
    assert status == 0, out + err
    again = scores(tmp_path / "again")
    assert again.keys() == scores(run).keys()
    for metric, record in scores(run).items():
        assert again[metric] | {"checkpoint": None} == record | {"checkpoint": None}


@pytest.mark.parametrize(("recorded", "n"), [({"n": 9}, 9), ({"n": 0}, 512), (None, 512)])
def test_a_model_of_a_run_without_scores_gets_the_usual_number_of_samples(recorded, n):
    recipe = {} if recorded is None else {"score": recorded}
    asked = validated(Evaluate, plain(composed("evaluate", ["ckpt=x", "name=x"])))
    assert completed(asked, recipe).n == n
    assert completed(asked.model_copy(update={"n": 4}), recipe).n == 4
    assert completed(asked, None).n is None  # all images of a folder


@pytest.mark.parametrize(
    ("recipe", "words", "seed"), [({"seed": 3}, [], 3), ({"seed": 3}, ["seed=5"], 5), (None, [], 0)]
)
def test_a_chosen_data_set_has_the_seed_of_the_command_or_of_the_run(recipe, words, seed):
    asked = validated(Evaluate, plain(composed("evaluate", ["ckpt=x", "name=x", "data=landscapes", *words])))
    settings = completed(asked, recipe)
    assert settings.data["seed"] == settings.seed == seed
    assert make(settings.data, "data").seed == seed


def test_matrices_are_multiplied_as_in_the_run(command, run, monkeypatch):
    """On a GPU, the precision of products changes the last digits of samples."""
    forward, seen = UNet.forward, set()

    def noted(self, *args, **kwargs):
        seen.add(torch.get_float32_matmul_precision())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(UNet, "forward", noted)
    torch.set_float32_matmul_precision("high")
    status, out, err = command("evaluate", [f"ckpt={run}", "n=4", "baselines=[]", "device=cpu"])
    assert status == 0, out + err
    assert seen == {"highest"}


CHANGED = {
    "one setting": (["sampler.steps=2"], {"name": "Heun", "steps": 2}, "linspace"),
    "a part": (["grid@sampler.grid=karras", "sampler.grid.rho=3"], {"name": "Heun", "steps": 3}, "karras"),
    "another": (["sampler=ddim", "sampler.steps=2"], {"name": "DDIM", "steps": 2}, "uniform"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_single_inherited_settings_can_be_overridden(command, run, tmp_path, name):
    words, expected, grid = CHANGED[name]
    common = [f"ckpt={run}/checkpoints/last.ckpt", "baselines=[]", "device=cpu", "metrics.kernel=null", "n=5"]
    status, out, err = command("evaluate", [*common, *words, "hydra.run.dir=evaluation"])
    assert status == 0, out + err
    found = scores(tmp_path / "evaluation")
    assert "kid_lite0" not in found
    assert expected.items() <= found["fd_lite0"]["sampler"].items()
    assert found["fd_lite0"]["sampler"]["grid"]["name"] == grid
    assert (found["fd_lite0"]["n"], found["fd_lite0"]["seed"]) == (5, 3)
    kept = OmegaConf.load(tmp_path / "evaluation/config.yaml")
    assert kept.sampler.steps == expected["steps"]  # the value used, not a reference to the run
    assert kept.data is None


@pytest.mark.parametrize(
    ("word", "expected"),
    {
        "sampler.stepz=2": "sampler.stepz: the run's sampler has no such setting (did you mean steps?)",
        "metrics.kernal=null": "did you mean kernel",
        "data.roots=x": "did you mean root",
        "sampler.steps=x": "sampler.steps=x: expected a whole number",
        "sampler.grid=null": "sampler.grid=null: a choice is required, with its place: grid@sampler.grid=…",
    }.items(),
)
def test_invalid_overrides_of_inherited_settings_give_one_line_errors(command, run, word, expected):
    status, _, err = command("evaluate", [f"ckpt={run}/checkpoints/last.ckpt", "device=cpu", word])
    assert status == 2
    assert expected in err
    assert err.count("\n") == 1


@pytest.fixture
def drawn(command, run, tmp_path) -> Path:
    """The output of `sample` with a trajectory."""
    words = [f"ckpt={run}/checkpoints/last.ckpt", "n=9", "trajectory=true", "device=cpu", "hydra.run.dir=drawn"]
    status, out, err = command("sample", words)
    assert status == 0, out + err
    return tmp_path / "drawn"


def evaluate(command, folder: Path, *words: str) -> tuple[int, str, str]:
    common = ["features=lite0", "metrics.kernel.subsets=7", "baselines=[]", "device=cpu", "hydra.run.dir=evaluation"]
    return command("evaluate", [f"images={folder}", *common, *words])


def test_sampled_images_have_the_same_score_as_the_checkpoint(command, run, drawn, photos, tmp_path):
    data = ["data=folder", f"data.root={photos}", "data.resolution=8", "data.val=8", "data.test=8"]
    status, out, err = evaluate(command, drawn / "images", *data)
    assert status == 0, out + err
    assert len(list((drawn / "images").iterdir())) == 9
    found = scores(tmp_path / "evaluation")["fd_lite0"]["value"]
    assert found == pytest.approx(scores(run)["fd_lite0"]["value"], rel=1e-6)


def test_the_reference_is_loaded_at_the_resolution_of_the_images(command, drawn, tmp_path, monkeypatch):
    resolutions = []
    monkeypatch.setattr(
        "diffusion.data.Landscapes.load", lambda self: resolutions.append(self.resolution) or small(self)
    )
    status, out, err = evaluate(command, drawn / "images")
    assert status == 0, out + err
    assert resolutions == [8]
    assert scores(tmp_path / "evaluation")["fd_lite0"]["resolution"] == "8x8"


def test_images_above_the_size_of_the_reference_are_scored_smaller_with_a_note(tmp_path, capsys):
    Image.new("RGB", (256, 192)).save(tmp_path / "0.png")
    given = SimpleNamespace(images=str(tmp_path), data={}, model_copy=lambda update: update)
    assert commands.at_their_size(given) == {"data": {"resolution": [96, 128]}}
    assert "scored at 96×128; 'data.resolution=[192,256]'" in " ".join(capsys.readouterr().out.split())


def small(data) -> dict[str, Split]:
    """Noise instead of the landscapes."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, data.resolution, data.resolution), dtype=np.uint8)
    return {name: Split(torch.from_numpy(pixels), list("abcdefgh")) for name in ("train", "val", "test")}


def test_an_unusable_image_folder_gives_a_one_line_error(command, drawn, tmp_path):
    (tmp_path / "two").mkdir()
    for side in (8, 9):
        Image.new("RGB", (side, side)).save(tmp_path / f"two/{side}.png")
    for folder, words, expected in (
        (tmp_path / "two", [], "(8.png is 8x8, 9.png is 9x9)"),
        (drawn, [], f"it also holds a grid of the samples; set images={drawn}/images"),
        (drawn, ["data=folder", f"data.root={drawn}", "data.resolution=8"], "it also holds a grid of the samples"),
        (drawn / "images", ["n=10"], "n=10: "),
        (tmp_path / "nowhere", [], "images="),
        (drawn / ".hydra", [], "set images to a folder"),
    ):
        status, _, err = evaluate(command, folder, *words)
        assert status == 2
        (line,) = (line for line in err.splitlines() if "━" not in line)
        assert line.startswith("error: ")
        assert expected in line
        assert "data.root" not in line
