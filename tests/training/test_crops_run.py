"""A run with crops=random: its training data, that it resumes, and that it samples whole images."""

from pathlib import Path

import pytest
import torch
import yaml
from composing import train
from outcomes import lines, same, state

import diffusion
from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import PREFIX, restore
from diffusion.model import UNet

CROPS = ["crops=random", "samples.n=0"]  # 8×8 images, and the network needs even sides
KEPT = ["checkpoint.every_n_steps=1", "checkpoint.keep=20"]


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("crops") / "run"
    seen, forward = [], UNet.forward
    with pytest.MonkeyPatch.context() as patch:

        def noted(self, x, *args, window=None, **kwargs):
            seen.append((self.training, x.shape[2], window))
            return forward(self, x, *args, window=window, **kwargs)

        patch.setattr(UNet, "forward", noted)
        train([*tiny, *CROPS, *KEPT], folder)
    torch.save(seen, folder / "seen.pt")
    return folder


def test_training_uses_crops_with_windows_and_validation_whole_images(run) -> None:
    seen = torch.load(run / "seen.pt", weights_only=True)
    parts = [(side, window) for _, side, window in seen if window is not None]
    assert {side for side, _ in parts} == {2, 4, 8}
    assert len(parts) == 13  # 12 steps, and one image tested before them
    assert {side for _, side, window in seen if window is None} == {8}
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["coordinates"] is False  # as asked for
    assert restore(run / "checkpoints/last.ckpt").model["coordinates"] is True


def test_full_size_crops_equal_plain_training_with_coordinates(tiny, tmp_path) -> None:
    """Bit for bit, also with an augmentation and labels, which have separate random draws."""
    common = [*tiny, "trainer.max_steps=3", "samples.n=0", "augmentation=edm", "augmentation.probability=0.5"]
    train([*common, "crops=random", "crops.divisors=[1]", "crops.probabilities=[1.0]"], tmp_path / "whole")
    train([*common, "model.coordinates=true"], tmp_path / "plain")
    assert same(state(tmp_path / "whole"), state(tmp_path / "plain"))
    without = {line["step"]: line["train/loss"] for line in lines(tmp_path / "plain") if "train/loss" in line}
    assert without == {line["step"]: line["train/loss"] for line in lines(tmp_path / "whole") if "train/loss" in line}


def test_samples_are_whole_images_with_full_image_coordinates(run) -> None:
    model = diffusion.load(run, device="cpu")
    assert model.sample(2, progress=False).shape == (2, 3, 8, 8)
    network = model.denoiser.network
    x, label, whole = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 2.0]), torch.tensor([[0, 0, 8, 8]]).expand(2, -1)
    moved = whole + torch.tensor([0, 8, 8, 8])
    assert torch.equal(network(x, label), network(x, label, window=whole))
    assert not torch.equal(network(x, label), network(x, label, window=moved))
    assert storage.load(run / "checkpoints/last.ckpt")["state_dict"][f"{PREFIX}stem.weight"].shape[1] == 5
