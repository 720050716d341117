"""The source of a score: its code, sampler and checkpoint."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import diffusion
from diffusion.checkpoint import provenance
from diffusion.checkpoint.provenance import code_version
from diffusion.evaluation.pipeline import describe_sampler
from diffusion.report.compare import compare, gather
from diffusion.report.formatting import sampler_text


def test_code_version_includes_the_commit_and_marks_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_source_includes_nested_sampler_settings() -> None:
    def node(rho: float) -> dict[str, Any]:
        grid = {"_target_": "a.karras", "_partial_": True, "rho": rho, "sigma_min": None}
        clip = {"_target_": "a.clip", "_partial_": True, "limit": 1.0}
        return {"_target_": "a.DDIM", "steps": 9, "grid": grid, "threshold": clip, "eta": 0.0}

    made = json.loads(json.dumps(describe_sampler(node(7.0))))
    grid = {"name": "karras", "rho": 7.0, "sigma_min": None}
    clip = {"name": "clip", "limit": 1.0}
    assert made == {"name": "DDIM", "steps": 9, "grid": grid, "threshold": clip, "eta": 0.0}
    assert made != describe_sampler(node(1.0))
    assert sampler_text(made) == "DDIM(steps=9, grid=karras(rho=7), threshold=clip(limit=1), eta=0)"


def test_evaluations_of_two_seeds_are_combined_in_one_row(command, tiny, tmp_path: Path) -> None:
    for seed in (0, 1):
        status, out, err = command("train", [*tiny, "trainer.max_steps=1", f"seed={seed}", f"hydra.run.dir=run{seed}"])
        assert status == 0, out + err
        words = [f"ckpt=run{seed}/checkpoints/best.ckpt", "features=lite0", "n=6", "sampler.steps=2", "baselines=[]"]
        status, out, err = command("evaluate", [*words, "device=cpu", f"hydra.run.dir=evaluation{seed}"])
        assert status == 0, out + err
    runs = gather([tmp_path / "evaluation0", tmp_path / "evaluation1"])
    assert [run.seeds for run in runs] == [(0, 0), (1, 1)]
    assert runs[0].settings["optimizer"]["lr"] == 3e-4
    (row,) = compare(runs).rows
    assert (row.label, len(row.numbers("fd_lite0"))) == ("all", 2)
    before = (tmp_path / "run0/config.yaml").read_text()
    status, out, err = command("evaluate", [*words, "device=cpu", "hydra.run.dir=run0"])
    assert status == 0, out + err
    assert (tmp_path / "run0/config.yaml").read_text() == before  # the run's recipe, needed to resume it
