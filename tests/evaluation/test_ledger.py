"""A score says what made it, and a second look at the test split is refused, or counted."""

import json
import subprocess
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

import diffusion
from diffusion.errors import UserError
from diffusion.evaluation import test_ledger as provenance
from diffusion.evaluation.pipeline import describe_sampler
from diffusion.evaluation.test_ledger import LooksAtTest, code_version
from diffusion.report.compare import compare, gather
from diffusion.report.formatting import sampler_name


def test_the_code_is_named_by_version_and_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "diffusion")
    code_version.cache_clear()
    assert code_version() == diffusion.__version__  # installed from a wheel
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("one")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout[:12]
    code_version.cache_clear()
    assert code_version() == f"{diffusion.__version__} {commit}"
    (tmp_path / "file").write_text("two")
    code_version.cache_clear()
    assert code_version() == f"{diffusion.__version__} {commit}+"
    code_version.cache_clear()


def test_a_record_keeps_the_values_of_a_samplers_parts() -> None:
    def node(rho: float) -> DictConfig:
        grid = {"_target_": "a.karras", "_partial_": True, "rho": rho, "sigma_min": None}
        clip = {"_target_": "a.clip", "_partial_": True, "limit": 1.0}
        return OmegaConf.create({"_target_": "a.DDIM", "steps": 9, "grid": grid, "threshold": clip, "eta": 0.0})

    made = json.loads(json.dumps(describe_sampler(node(7.0))))
    grid = {"name": "karras", "rho": 7.0, "sigma_min": None}
    clip = {"name": "clip", "limit": 1.0}
    assert made == {"name": "DDIM", "steps": 9, "grid": grid, "threshold": clip, "eta": 0.0}
    assert made != describe_sampler(node(1.0))
    assert sampler_name(made) == "DDIM(steps=9, grid=karras(rho=7), threshold=clip(limit=1), eta=0)"
    assert sampler_name({"name": "DDIM", "steps": 9, "grid": "karras"}) == "DDIM(steps=9, grid=karras)"  # as it was


def test_checkpoints_of_two_seeds_are_evaluated_to_one_row(command, tiny, tmp_path: Path) -> None:
    for seed in (0, 1):
        status, out, err = command("train", [*tiny, "trainer.max_steps=1", f"seed={seed}", f"hydra.run.dir=run{seed}"])
        assert status == 0, out + err
        look = [f"ckpt=run{seed}/checkpoints/best.ckpt", "features=lite0", "n=6", "sampler.steps=2", "yardsticks=[]"]
        status, out, err = command("evaluate", [*look, "device=cpu", f"hydra.run.dir=look{seed}"])
        assert status == 0, out + err
    runs = gather([tmp_path / "look0", tmp_path / "look1"])
    assert [run.seeds for run in runs] == [(0, 0), (1, 1)]
    assert runs[0].settings["optimizer"]["lr"] == 3e-4
    (row,) = compare(runs).rows
    assert (row.label, len(row.values["fd_lite0"])) == ("all", 2)
    before = (tmp_path / "run0/config.yaml").read_text()
    status, out, err = command("evaluate", [*look, "device=cpu", "hydra.run.dir=run0"])
    assert status == 0, out + err
    assert (tmp_path / "run0/config.yaml").read_text() == before  # its own recipe, by which it is resumed


def test_a_second_look_at_test_is_refused_unless_asked_for_and_both_are_recorded(command, tiny, tmp_path: Path) -> None:
    status, out, err = command("train", [*tiny, "trainer.max_steps=1", "hydra.run.dir=run"])
    assert status == 0, out + err
    look = ["ckpt=run/checkpoints/best.ckpt", "features=lite0", "n=6", "sampler.steps=2", "device=cpu"]

    def records(name: str, *words: str) -> list[int | None]:
        status, out, err = command("evaluate", [*look, *words, "yardsticks=[noise]", f"hydra.run.dir={name}"])
        assert status == 0, out + err
        assert ("of several test scores only the first is honest" in out) == ("again=true" in words)
        return [record.get("look") for record in json.loads((tmp_path / name / "scores.json").read_text())]

    assert set(records("first", "split=test")) == {1}
    assert set(records("val", "split=val")) == {None}
    status, _, err = command("evaluate", [*look, "split=test", "hydra.run.dir=second"])
    when = json.loads((tmp_path / "run/test.json").read_text())[0]["when"]
    assert (status, err.count("\n")) == (2, 1)
    assert f"split=test: the test split was scored for this run on {when} (step 1), and 1 time so far" in err
    assert "as run/test.json says; split=val is for choosing; again=true scores the test split once more" in err
    assert not (tmp_path / "second/scores.json").exists()
    assert set(records("third", "split=test", "again=true")) == {2}
    looks = json.loads((tmp_path / "run/test.json").read_text())
    assert [entry["look"] for entry in looks] == [1, 2]
    assert looks[0]["scores"].keys() >= {"fd_lite0", "kid_lite0"}
    assert len(looks[0]["checkpoint"]["sha256"]) == 16
    go_on = ["ckpt=run/checkpoints/last.ckpt", "trainer.max_steps=2", "hydra.run.dir=on"]
    status, out, err = command("train", [*tiny, *go_on])
    assert status == 0, out + err
    assert json.loads((tmp_path / "on/test.json").read_text()) == looks  # who goes on has seen it
    assert looks[0]["code"].startswith(diffusion.__version__)


def test_scoring_test_while_training_is_warned_of_and_every_look_recorded(command, tiny, tmp_path: Path) -> None:
    score = ["score.n=4", "score.every_n_epochs=1", "score.yardsticks=[]", "features=lite0", "sampler.steps=2"]
    status, out, err = command("train", [*tiny, *score, "score.split=test", "hydra.run.dir=run"])
    assert status == 0, out + err
    assert "warning: score.every_n_epochs with score.split=test" in out
    assert "2 times so far; of several test scores only the first is honest" in out
    looks = json.loads((tmp_path / "run/test.json").read_text())
    assert [(entry["look"], entry["step"]) for entry in looks] == [(1, 6), (2, 12), (3, 12)]
    assert all(entry["scores"]["fd_lite0"] > 0 for entry in looks)
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert [(r["look"], r["step"]) for r in scores if r["metric"] == "fd_lite0"] == [(1, 6), (2, 12), (3, 12)]


def test_a_record_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text("{")
    with pytest.raises(UserError, match=r"test.json: not readable"):
        LooksAtTest.beside(tmp_path / "checkpoints/last.ckpt").warn()
