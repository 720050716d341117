"""A run with augmentation: the network receives its labels with any batch layout, and samples without them."""

from pathlib import Path

import pytest
from composing import train

from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import PREFIX, restore
from diffusion.training.module import Diffusion

AUGMENTED = ["augmentation=edm", "augmentation.probability=0.5", "samples.n=0", "trainer.precision=64-true"]


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("augmented") / "run"
    train([*tiny, *AUGMENTED, "checkpoint.every_n_steps=1", "checkpoint.keep=20"], folder)
    return folder


def test_the_augmentation_label_weights_are_trained(run) -> None:
    """The weights for the labels were initially zero."""
    weights = storage.load(run / "checkpoints/last.ckpt")["state_dict"][f"{PREFIX}time.augment"]
    assert weights.shape == (8, 9)
    assert (weights != 0).any(dim=0).all()
    assert restore(run / "checkpoints/last.ckpt").model["augment"] == 9


def test_augmentation_and_noise_use_separate_random_streams(tiny, tmp_path, monkeypatch) -> None:
    """So an image's noise and times are independent of its augmentation."""
    uses: list[str] = []
    streams = Diffusion.streams
    monkeypatch.setattr(
        Diffusion, "streams", lambda self, batch, use="train": uses.append(use) or streams(self, batch, use)
    )
    train([*tiny, *AUGMENTED, "trainer.max_steps=1"], tmp_path)
    assert uses == ["augment", "train"]
