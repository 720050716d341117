"""weights=0.08: an average of any length, reconstructed from a run's snapshots, wherever weights can be chosen."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import diffusion
from diffusion.checkpoint import restore as restores
from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import PREFIX, restore
from diffusion.cli import export
from diffusion.errors import UserError


def last(folder: Path) -> Path:
    return folder / "checkpoints/last.ckpt"


def test_samples_with_a_post_hoc_average_match_the_library(ran, scored, tmp_path):
    model = diffusion.load(scored, weights=0.08, device="cpu")
    assert model.restored.weights == "ema 0.08"
    words = [f"ckpt='{scored}'", "weights=0.08", "n=3", "seed=1", "device=cpu", "hydra.run.dir=out"]
    out = ran("sample", words)
    assert "16 averages at 8 steps" in out
    assert "(ema 0.08 weights)" in out
    with np.load(tmp_path / "out/images.npz") as saved:
        expected = torch.from_numpy(saved["arr_0"]).permute(0, 3, 1, 2)
    assert torch.equal(model.sample(3, seed=1), expected)
    other = diffusion.load(scored, weights=0.2, device="cpu").sample(3, seed=1)
    assert not torch.equal(other, expected)


def test_tensors_that_are_not_averaged_come_from_the_checkpoint(scored, monkeypatch):
    """Such as a buffer of the network."""
    contents = storage.load(last(scored))
    made, state = restores.average_of_length(contents, last(scored), 0.08), contents["state_dict"]
    name = next(name for name, value in made.items() if not torch.equal(value, state[name]))
    monkeypatch.setattr(restores, "average_of_length", lambda *_: {key: made[key] for key in made if key != name})
    network = restore(last(scored), 0.08).denoiser.network.state_dict()
    for key, value in network.items():
        source = state if PREFIX + key == name else made
        assert torch.equal(value, source[PREFIX + key]), key


def test_a_length_that_cannot_be_reconstructed_gives_a_one_line_error(scored, two_steps, tmp_path):
    """No snapshots cover it, there are none, or one is damaged."""
    copied = Path(shutil.copytree(scored, tmp_path / "run"))
    file = storage.snapshot(copied / "checkpoints", 4)
    file.write_bytes(file.read_bytes()[:-10])
    for run, length in ((copied, 0.005), (copied, 0.3), (two_steps, 0.08), (copied, 0.08)):
        with pytest.raises(UserError):
            restore(last(run), length)
    assert restore(last(copied), 0.1).weights == "ema 0.1"  # a tracked length is in the checkpoint


def test_an_exported_average_keeps_its_length(scored, tmp_path):
    file = tmp_path / "model.safetensors"
    assert export.main([str(scored), str(file), "--weights", "0.08"]) == 0
    here, there = restore(last(scored), 0.08), restore(file)
    assert (here.weights, there.weights) == ("ema 0.08", "ema 0.08")
    assert all(
        torch.equal(a, b)
        for a, b in zip(here.denoiser.state_dict().values(), there.denoiser.state_dict().values(), strict=True)
    )
    for absent in (0.1, "raw"):
        with pytest.raises(UserError):
            restore(file, absent)
