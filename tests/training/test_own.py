"""What `sample` and `evaluate` leave unsaid is the run's own: its scores are had again, and single settings change."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffusion import export
from diffusion.paths import conf_dir
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
        "sampler.grid=null": "sampler.grid: not one that gives times",
    }.items(),
)
def test_what_the_run_does_not_have_is_one_line(command, own, word, told):
    status, _, err = command("evaluate", [f"ckpt={own}/checkpoints/last.ckpt", "device=cpu", word])
    assert status == 2
    assert told in err
    assert err.count("\n") == 1
