"""A run with augmentation: the network receives its labels with any batch layout, and samples without them."""

from pathlib import Path

import pytest
import torch
import yaml
from composing import settings, train
from networks import randomised
from outcomes import lines, refusal, same, state

import diffusion
from diffusion import export
from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import PREFIX
from diffusion.config.build import make
from diffusion.training.module import Diffusion
from diffusion.training.recipe import with_inputs

AUGMENTED = ["augmentation=edm", "augmentation.probability=0.5", "samples.n=0", "trainer.precision=64-true"]
NETWORKS = {
    "unet": ["model=unet_tiny", "model.channels=[8,16]", "model.attention=[false,true]", "model.groups=4"],
    "adm": ["model=unet_adm_tiny", "model.channels=[8,16]", "model.attention=[false,true]", "model.groups=4",
            "model.head_dim=8"],
    "dit": ["model=dit_tiny", "model.width=16", "model.depth=1", "model.heads=2"],
    "jit": ["model=jit_tiny", "model.width=16", "model.depth=1", "model.heads=2"],
}  # fmt: skip


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
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["augment"] == 9


def test_a_resumed_run_equals_an_uninterrupted_run(tiny, run, tmp_path) -> None:
    ckpt = storage.numbered(run / "checkpoints", 5)
    train([*tiny, *AUGMENTED, "checkpoint.every_n_steps=1", "checkpoint.keep=20", f"ckpt={ckpt}"], tmp_path)
    assert same(state(tmp_path), state(run))
    assert lines(tmp_path) == lines(run)


def test_accumulated_batches_equal_one_large_batch(tiny, run, tmp_path) -> None:
    train([*tiny, *AUGMENTED, "data.batch_size=2", "trainer.accumulate_grad_batches=2"], tmp_path)
    whole, divided = (state(folder)["state_dict"] for folder in (run, tmp_path))
    assert all(float((value - divided[name]).abs().max()) <= 1e-12 for name, value in whole.items())


def test_an_identity_augmentation_does_not_change_training(tiny, tmp_path) -> None:
    """An augmentation that changes nothing gives the same run as none, bit for bit."""
    common = [*tiny, "trainer.max_steps=2", "samples.n=0", "trainer.precision=64-true"]
    train(common, tmp_path / "without")
    train(
        [*common, "augmentation=edm", "augmentation._target_=doubles.unchanged", "~augmentation.probability"],
        tmp_path / "with",
    )
    without, with_labels = (state(tmp_path / name)["state_dict"] for name in ("without", "with"))
    assert with_labels.keys() - without.keys() == {f"{PREFIX}time.augment"}
    assert all(torch.equal(value, with_labels[name]) for name, value in without.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_accepts_augmentation_labels(name) -> None:
    chosen = with_inputs(settings([*NETWORKS[name], "augmentation=edm"]))
    network = randomised(make(chosen.model, "model"))
    x, t, labels = torch.randn(3, 3, 8, 8), torch.tensor([1.0, 2.0, 3.0]), torch.randn(3, 9)
    with torch.no_grad():
        told = network(x, t, augment=labels)
        assert torch.equal(network(x, t), network(x, t, augment=torch.zeros(3, 9)))
        assert not torch.allclose(told, network(x, t))
        torch.testing.assert_close(told.flip(0), network(x.flip(0), t.flip(0), augment=labels.flip(0)))


def test_an_augmented_run_can_be_sampled(run) -> None:
    images = diffusion.load(run, device="cpu").sample(2, progress=False)
    assert images.shape == (2, 3, 8, 8)


BAD = {
    "a network that takes none": (["model=edm2_tiny", "augmentation=edm"], ["augmentation: ", "model=unet_small"]),
    "another number of labels": (["model.augment=3", "augmentation=edm"], ["model.augment=3", "9 labels"]),
    "labels of nothing": (["model.augment=9"], ["model.augment=9", "0 labels"]),
    "a probability above 1": (["augmentation=edm", "augmentation.probability=2"], ["augmentation.probability=2"]),
}


@pytest.mark.parametrize("case", BAD)
def test_incompatible_augmentation_settings_give_one_line_errors(command, tiny, case) -> None:
    overrides, words = BAD[case]
    shape = [word for word in tiny if not word.startswith("model")] if "model=edm2_tiny" in overrides else tiny
    line = refusal(command("train", [*shape, *overrides, "name=bad"]))
    assert all(word in line for word in words), line


def test_export_to_diffusers_is_refused_with_inputs_labels(run, tmp_path, capsys) -> None:
    assert export.main([str(run), str(tmp_path / "theirs"), "--format", "diffusers"]) == 2
    assert "model.augment=9" in capsys.readouterr().err


def test_augmentation_and_noise_use_separate_random_streams(tiny, tmp_path, monkeypatch) -> None:
    """So an image's noise and times are independent of its augmentation."""
    uses: list[str] = []
    streams = Diffusion.streams
    monkeypatch.setattr(
        Diffusion, "streams", lambda self, batch, use="train": uses.append(use) or streams(self, batch, use)
    )
    train([*tiny, *AUGMENTED, "trainer.max_steps=1"], tmp_path)
    assert uses == ["augment", "train"]
