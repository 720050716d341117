"""A run with crops=random: its training data, that it resumes, and that it samples whole images."""

from pathlib import Path

import pytest
import torch
import yaml
from composing import train

from diffusion.checkpoint.restore import restore
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
