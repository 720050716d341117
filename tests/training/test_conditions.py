"""Augmentation, crops, labels and the stages of an objective in a run: what the network is given."""

from types import SimpleNamespace

import pytest
import torch
import yaml
from composing import settings, train
from outcomes import same, state

from diffusion.base.pixels import to_unit
from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import PREFIX, restore
from diffusion.cli.export import main as export
from diffusion.model import UNet
from diffusion.process.consistency import ConsistencyTuning
from diffusion.process.floor import Atoms
from diffusion.process.objective import Simple
from diffusion.training.module import Diffusion
from diffusion.training.parts import Parts

FROM_FLOOR = "timesteps@objective.timesteps=from_floor"


def test_augmentation_labels_are_trained_with_random_streams_of_their_own(tiny, tmp_path, monkeypatch):
    """The weights for the labels were initially zero. An image's noise and times do not depend on its augmentation."""
    uses: list[str] = []
    streams = Diffusion.streams
    monkeypatch.setattr(
        Diffusion, "streams", lambda self, batch, use="train": uses.append(use) or streams(self, batch, use)
    )
    train([*tiny, "augmentation=edm", "augmentation.probability=0.5", "trainer.max_epochs=1", "samples.n=0"], tmp_path)
    assert uses == ["augment", "train"] * 6
    weights = storage.load(tmp_path / "checkpoints/last.ckpt")["state_dict"][f"{PREFIX}time.augment"]
    assert weights.shape == (8, 9)
    assert (weights != 0).any(dim=0).all()
    assert restore(tmp_path / "checkpoints/last.ckpt").model["augment"] == 9


def test_training_uses_crops_with_windows_and_validation_whole_images(tiny, tmp_path, monkeypatch):
    seen, forward = [], UNet.forward

    def noted(self, x, *args, window=None, **kwargs):
        seen.append((x.shape[2], window))
        return forward(self, x, *args, window=window, **kwargs)

    monkeypatch.setattr(UNet, "forward", noted)
    train([*tiny, "crops=random", "trainer.max_epochs=1", "samples.n=0"], tmp_path)
    parts = [side for side, window in seen if window is not None]
    assert {*parts} == {2, 4, 8}
    assert len(parts) == 7  # 6 steps, and one image tested before them
    assert {side for side, window in seen if window is None} == {8}
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["coordinates"] is False  # as asked for
    assert restore(tmp_path / "checkpoints/last.ckpt").model["coordinates"] is True


def test_a_run_goes_through_its_stages_and_resumes_bit_for_bit(tiny, tmp_path, monkeypatch):
    stages, call = [], ConsistencyTuning.forward

    def forward(self, denoiser, *args, **given):
        if denoiser.network.training and torch.is_grad_enabled():
            stages.append(int(self.stage))
        return call(self, denoiser, *args, **given)

    monkeypatch.setattr(ConsistencyTuning, "forward", forward)
    overrides = [
        *tiny, "experiment=ect", "init=null", "model.dropout=0.3", "objective.stages=3", "trainer.max_steps=6",
        "trainer.accumulate_grad_batches=2", "checkpoint.every_n_steps=1", "checkpoint.keep=20", "samples.n=0",
    ]  # fmt: skip
    train(overrides, tmp_path / "whole")
    assert stages == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    stages.clear()
    train([*overrides, f"ckpt={tmp_path}/whole/checkpoints/step-00000003.ckpt"], tmp_path / "rest")
    assert stages == [2, 2, 3, 3, 3, 3]
    assert same(state(tmp_path / "whole"), state(tmp_path / "rest"))


def test_the_classes_of_the_data_are_stored_in_checkpoints_and_exports(labelled, tmp_path):
    restored = restore(labelled / "checkpoints/last.ckpt")
    assert restored.model["classes"] == 2
    assert [*restored.labels] == ["blue", "red"]
    assert export([str(labelled), str(tmp_path / "exported.safetensors")]) == 0
    exported = restore(tmp_path / "exported.safetensors")
    assert exported.labels == restored.labels
    assert {"logger", "init"} <= restored.config.keys() - exported.config.keys()  # for others than its owner


def dropped(epoch: int, index: torch.Tensor) -> list[bool]:
    """Which of the images a run with label_dropout=0.3 trains without their class in an epoch."""
    x0 = torch.zeros(len(index))
    denoiser = SimpleNamespace(network=SimpleNamespace(classes=3), parameters=lambda: iter([x0]))
    module = SimpleNamespace(settings=settings([]), denoiser=denoiser, device=x0.device, condition=None)
    batch = SimpleNamespace(image=x0, classes=torch.ones(len(index), dtype=torch.int64), epoch=epoch, index=index)
    found: list[int] = Diffusion.shown(module, batch, 0.3)[1]["classes"].tolist()
    assert {*found} <= {1, 3}
    return [each == 3 for each in found]


def test_label_dropout_depends_only_on_image_and_epoch():
    everything = torch.arange(2000)
    found = dropped(0, everything)
    assert sum(found) / 2000 == pytest.approx(0.3, abs=0.04)
    assert [gone for part in everything.split(7) for gone in dropped(0, part)] == found
    assert dropped(1, everything) != found


def test_times_from_the_floor_know_which_labels_the_network_is_told(labelled, tiny, tmp_path):
    words = [*tiny, FROM_FLOOR, f"data.root={labelled.parent}/shelves", "data.labels=folders", "label_dropout=0.3"]
    run = Parts(settings(words), tmp_path, None)
    module = Diffusion(run)
    images, times = run.data.splits["train"], module.objective.timesteps
    found = times.floor.clone()
    for told, equal in ((images.labels, 0.3), True), ((images.labels, 0.0), False), ((None, 0.3), False):
        Simple(times).prepare(module.denoiser, Atoms(images.images, run.data.flip, *told, unit=to_unit))
        assert torch.equal(found, times.floor) == equal


REFUSED = {
    "no labels, but guidance": (["data.labels=null", "guidance=cfg"], "needs a class label"),
    "classes without labels": (
        ["data.labels=null", "model.classes=3"],
        "data.labels, which gives 0",
    ),
    "another number of classes": (["model.classes=4"], "model.classes=4: it follows data.labels, which gives 2"),
    "guidance without dropout": (["guidance=cfg", "label_dropout=0"], "trained with label_dropout=0"),
    "no weak model": (["guidance=auto"], "it needs a weak model"),
    "the floor of augmented images": ([FROM_FLOOR, "augmentation=edm"], "only squared errors without"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_incompatible_label_settings_are_refused_before_training(refused, labelled, tiny, name):
    more, said = REFUSED[name]
    words = [*tiny, f"data.root={labelled.parent}/shelves", "data.labels=folders", "samples.n=0"]
    assert said in refused("train", [*words, *more, "hydra.run.dir=run"])
