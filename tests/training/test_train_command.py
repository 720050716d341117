"""The command from a user's view: a run from start to end, a sweep, half precision."""

import json

import numpy as np
import pytest
import torch
from composing import settings, train
from PIL import Image

from diffusion.base.pixels import tiles
from diffusion.runs.folder import read_metrics
from diffusion.training.clock import Clock
from diffusion.training.parts import Parts

STANDARD = [f"{metric}_lite0" for metric in ("fd", "kid", "precision", "recall", "density", "coverage")]


@pytest.mark.whole_report
def test_a_run_writes_all_expected_files(command, ran, tiny, tmp_path):
    overrides = ["samples.every_n_epochs=1", "samples.n=4", "score.n=8", "score.every_n_epochs=2", "features=lite0"]
    out = ran("train", [*tiny, *overrides, "name=whole"])
    (run,) = (path.parent for path in (tmp_path / "outputs/whole").rglob("run.json"))
    info = json.loads((run / "run.json").read_text())
    assert info["seconds_of"].keys() >= {"preparation", "training", "validation", "last samples"}
    assert sum(info["seconds_of"].values()) == pytest.approx(info["seconds"], abs=2)
    assert info["state"] == "complete"
    assert (info["steps"], info["epochs"]) == (12, 2)
    assert info["images"] == {"train": 24, "val": 8, "test": 8}
    assert info["command"][-1] == "name=whole"

    metrics = read_metrics(run / "metrics.csv")
    assert {"train/loss", "val/mse", "val/mse_raw", "fit/mse", "fit/mse_raw", "gap/mse"} <= metrics.keys()
    assert len(metrics["train/loss"].step) == 12
    assert len(metrics["val/mse"].step) == 2
    gap = metrics["val/mse"].value - metrics["fit/mse"].value
    np.testing.assert_allclose(metrics["gap/mse"].value, gap, atol=1e-6)

    records = json.loads((run / "scores.json").read_text())
    assert {(r["metric"], r["what"]) for r in records} == {
        (metric, what) for metric in STANDARD for what in ("samples", "noise", "real", "split_half")
    }
    bare = [r for r in records if "low" not in r]
    assert all((r["metric"], r["value"]) == ("density_lite0", 0.0) and "high" not in r for r in bare)
    assert all(r["low"] <= r["value"] <= r["high"] for r in records if r not in bare)
    assert all(r["n"] == 8 and r["reference"]["split"] == "val" and r["weights_hash"] for r in records)
    assert [p.name for p in sorted((run / "samples").iterdir())] == [
        "all.png", "film.png", "final.png", "step-00000006.png", "step-00000012.png",
    ]  # fmt: skip
    with Image.open(run / "samples/all.png") as everything:
        assert (json.loads(everything.text["grid"])["drawn"], len(tiles(everything))) == (8, 8)
    assert Image.open(run / "samples/final.png").width == 2 * (2 + 16 * 8) - 2  # readable, like a grid of `sample`
    for name in ("samples", "mse", "signal"):
        Image.open(run / "figures" / f"{name}.png").verify()
    assert "fd_lite0" in (run / "README.md").read_text()
    numbered = {"step-00000006.ckpt", "step-00000012.ckpt"}
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"} | numbered
    assert "whole/" in out.splitlines()[-1]
    assert f"network with {json.loads((run / 'run.json').read_text())['parameters']:,} parameters" in out
    assert "\nHow good is it? They are speckled with colours, noisy" in out


def test_sampling_costs_no_more_than_the_training_unless_it_is_asked_for(tiny, tmp_path):
    words = [*tiny, "score.n=null", "samples.n=null"]
    run = Parts(settings(words), tmp_path, None)  # a step costs 3 · 4 evaluations, a sample 4
    for steps, amounts in ((0, (0, 0)), (5, (0, 15)), (6, (0, 16)), (170, (0, 16)), (171, (512, 16))):
        run.clock = Clock(epoch=6, total=steps)
        assert run.affordable() == amounts
    asked = Parts(settings([*words, "score.n=7", "samples.n=20", "samples.every_n_epochs=1"]), tmp_path, None)
    assert (asked.scored, asked.shown) == (7, 20)


def test_half_precision_trains_and_saves_and_the_last_step_is_validated(tiny, tmp_path):
    words = ["optimizer=muon", "ema=power", "trainer.precision=bf16-true", "trainer.max_steps=2", "samples.n=0"]
    train([*tiny, *words, "trainer.gradient_clip_val=1.0", "trainer.check_val_every_n_epoch=5"], tmp_path)
    contents = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert contents["state_dict"]["denoiser.network.out.weight"].dtype == torch.bfloat16
    assert list(read_metrics(tmp_path / "metrics.csv")["val/mse"].step) == [2]
