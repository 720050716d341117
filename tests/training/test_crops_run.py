"""A run with crops=random: its training data, that it resumes, and that it samples whole images."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from composing import train
from outcomes import lines, refusal, same, state

import diffusion
from diffusion import export
from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import PREFIX
from diffusion.model import UNet
from diffusion.training.module import Diffusion

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
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["coordinates"] is True


def test_a_resumed_run_equals_an_uninterrupted_run(tiny, run, tmp_path) -> None:
    train([*tiny, *CROPS, *KEPT, f"ckpt={storage.numbered(run / 'checkpoints', 5)}"], tmp_path)
    assert same(state(tmp_path), state(run))
    assert lines(tmp_path) == lines(run)


def test_full_size_crops_equal_plain_training_with_coordinates(tiny, tmp_path) -> None:
    """Bit for bit, also with an augmentation and labels, which have separate random draws."""
    common = [*tiny, "trainer.max_steps=3", "samples.n=0", "augmentation=edm", "augmentation.probability=0.5"]
    train([*common, "crops=random", "crops.divisors=[1]", "crops.probabilities=[1.0]"], tmp_path / "whole")
    train([*common, "model.coordinates=true"], tmp_path / "plain")
    assert same(state(tmp_path / "whole"), state(tmp_path / "plain"))
    without = {line["step"]: line["train/loss"] for line in lines(tmp_path / "plain") if "train/loss" in line}
    assert without == {line["step"]: line["train/loss"] for line in lines(tmp_path / "whole") if "train/loss" in line}


def test_crops_augmentation_and_noise_use_separate_random_streams(tiny, tmp_path, monkeypatch) -> None:
    uses: list[str] = []
    streams = Diffusion.streams
    monkeypatch.setattr(
        Diffusion, "streams", lambda self, batch, use="train": uses.append(use) or streams(self, batch, use)
    )
    train([*tiny, *CROPS, "augmentation=edm", "trainer.max_steps=1"], tmp_path)
    assert uses == ["augment", "crops", "train"]


def test_samples_are_whole_images_with_full_image_coordinates(run) -> None:
    model = diffusion.load(run, device="cpu")
    assert model.sample(2, progress=False).shape == (2, 3, 8, 8)
    network = model.denoiser.network
    x, label, whole = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 2.0]), torch.tensor([[0, 0, 8, 8]]).expand(2, -1)
    moved = whole + torch.tensor([0, 8, 8, 8])
    assert torch.equal(network(x, label), network(x, label, window=whole))
    assert not torch.equal(network(x, label), network(x, label, window=moved))
    assert storage.load(run / "checkpoints/last.ckpt")["state_dict"][f"{PREFIX}stem.weight"].shape[1] == 5


def test_crops_can_be_combined_with_labels_and_guidance(tiny, photos, tmp_path) -> None:
    for i, file in enumerate(sorted(photos.iterdir())):
        (tmp_path / "shelves" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "shelves" / f"{i % 2}")
    words = [word for word in tiny if not word.startswith("data.root")]
    more = [f"data.root={tmp_path}/shelves", "data.labels=folders", "guidance=cfg", "trainer.max_steps=3"]
    train([*words, *more, "crops=random", "samples.n=2"], tmp_path / "run")
    images = diffusion.load(tmp_path / "run", device="cpu").sample(2, labels=[0, 1], guidance="cfg", progress=False)
    assert images.shape == (2, 3, 8, 8)


BAD = {
    "parts that the network can't divide": (
        ["crops=random", "model.channels=[8,16,16]", "model.attention=[false,true,true]"],
        ["crops.divisors: 4 divides images of 8×8 into parts of 2×2", "crops.divisors=[1,2]"],
    ),
    "a network that can't be told": (["crops=random", "model=edm2_tiny"], ["crops: ", "model=unet_small"]),
    "probabilities of 0.9": (["crops=random", "crops.probabilities=[0.5,0.2,0.2]"], ["crops.probabilities=[0.5,0.2"]),
    "a divisor of 0": (["crops=random", "crops.divisors=[0,1,2]"], ["crops.divisors"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_incompatible_crop_settings_give_one_line_errors(command, tiny, case) -> None:
    overrides, words = BAD[case]
    shape = [word for word in tiny if not word.startswith("model")] if "model=edm2_tiny" in overrides else tiny
    line = refusal(command("train", [*shape, *overrides, "name=bad"]))
    assert all(word in line for word in words), line


def test_export_to_diffusers_is_refused_with_coordinates(run, tmp_path, capsys) -> None:
    assert export.main([str(run), str(tmp_path / "theirs"), "--format", "diffusers"]) == 2
    assert "model.coordinates" in capsys.readouterr().err
