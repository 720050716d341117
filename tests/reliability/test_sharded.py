"""Two processes with sharded weights (trainer.strategy=fsdp2) give the same results as two with full copies."""

import json
from pathlib import Path

import pytest
import torch
from composing import train
from outcomes import lines, state
from safetensors.torch import load_file

from diffusion.checkpoint.early import file_of

pytestmark = pytest.mark.reliability

# The features of the largest network: scalar parameters, weights written in the forward pass, a learned loss weight
# with parameters outside the network, activation checkpointing. Images and scores during training and at the end.
EDM2 = (
    "model=edm2_tiny", "model.channels=[8,16]", "model.attention=[false,true]", "model.head_dim=8", "model.dropout=0.2",
    "model.checkpointing=true", "schedule=edm", "prediction=edm", "grid@sampler.grid=karras", "objective=uncertainty",
    "timesteps@objective.objective.timesteps=log_normal", "weighting@objective.objective.weighting=edm",
    "optimizer=adam", "optimizer.lr=1e-2", "trainer.precision=64-true", "trainer.devices=2", "trainer.max_epochs=2",
    "data.batch_size=2", "samples.n=3", "samples.every_n_epochs=1", "score.n=6", "score.every_n_epochs=2",
    "score.baselines=[untrained]", "guidance=auto", "guidance.step=5",
    "~features", "+features._target_=doubles.Rows", "callbacks=gradient_norm",
)  # fmt: skip


def flat(value, name: str = ""):
    """Path -> tensor, for all tensors in nested mappings and lists."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, each in parts for k, v in flat(each, f"{name}.{key}").items()}
    return {name: value} if hasattr(value, "shape") else {}


def test_sharded_edm2_training_samples_and_scores_equal_ddp(tiny, tmp_path, figure):
    runs: dict[str, Path] = {name: tmp_path / name for name in ("ddp", "fsdp2")}
    words = [*(word for word in tiny if not word.startswith("model")), *EDM2]
    for name, folder in runs.items():
        train([*words, f"trainer.strategy={name}"], folder)
    whole, divided = (flat(state(folder)) for folder in runs.values())
    assert {name: (v.shape, v.dtype) for name, v in divided.items()} == {
        n: (v.shape, v.dtype) for n, v in whole.items()
    }
    worst = max(float((divided[name] - whole[name]).abs().max()) for name in whole)
    assert worst <= 1e-12
    figure("EDM2's parts, divided against whole, float64, largest difference", f"{worst:.1e}")

    early = [load_file(file_of(folder / "checkpoints", 5)) for folder in runs.values()]
    assert all(torch.allclose(early[1][name], early[0][name], rtol=0, atol=1e-12) for name in early[0])

    one, two = (lines(folder) for folder in runs.values())
    assert "train/gradient_norm" in {key for row in one for key in row}
    assert [row.keys() for row in two] == [row.keys() for row in one]
    for ours, theirs in zip(two, one, strict=True):
        for key, value in theirs.items():
            assert float(ours[key]) == pytest.approx(float(value), rel=1e-5, abs=1e-7, nan_ok=True), key

    scores = [json.loads((folder / "scores.json").read_text()) for folder in runs.values()]
    assert {row["what"] for row in scores[0]} == {"samples", "untrained"}
    assert [(row["metric"], row["what"], row["step"], row["n"]) for row in scores[1]] == [
        (row["metric"], row["what"], row["step"], row["n"]) for row in scores[0]
    ]
    for ours, theirs in zip(*(sorted(folder.glob("samples/*.png")) for folder in runs.values()), strict=True):
        assert (ours.name, ours.read_bytes()) == (theirs.name, theirs.read_bytes())

    held = [json.loads((folder / "run.json").read_text())["bytes_of"] for folder in runs.values()]
    for part in ("optimizer", "gradients", "averages of weights"):
        assert 0.45 < held[1][part] / held[0][part] < 0.6, part
