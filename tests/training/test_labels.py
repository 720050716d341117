"""A run with labels: they reach the network in training, validation, samples and scores, and in later commands."""

from pathlib import Path

import numpy as np
import pytest
import torch
from composing import train
from PIL import Image
from torch import Tensor

from diffusion.checkpoint.restore import restore
from diffusion.data import Batch
from diffusion.training.module import Diffusion

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 60), "red": (220, 30, 20)}


@pytest.fixture(scope="module")
def shelves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders of 16 images, each folder with one colour and a stripe in random places."""
    root = tmp_path_factory.mktemp("shelves")
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for i in range(16):
            picture = Image.new("RGB", (8, 8), colour)
            picture.paste((255, 250 - i, 240), (0, i % 8, 8, i % 8 + 1 + i // 8))
            picture.save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def words(tiny, shelves) -> list[str]:
    labelled = [f"data.root={shelves}", "data.labels=folders", "data.batch_size=4", "data.val=9", "data.test=9"]
    return [*tiny, *labelled, "ema=none", "samples.n=0"]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("runs") / "run"
    train([*words, "optimizer.lr=2e-3", "trainer.max_epochs=20", "prediction=v", "schedule=cosine"], folder)
    return folder


def test_the_classes_of_the_data_are_stored_in_checkpoints_and_exports(run, command):
    restored = restore(run / "checkpoints/last.ckpt")
    assert restored.model["classes"] == 3
    assert sum(restored.labels.values()) == 30
    assert [*restored.labels] == ["blue", "green", "red"]
    from diffusion.export import main

    assert main([str(run), "exported.safetensors"]) == 0
    assert restore("exported.safetensors").labels == restored.labels


def test_label_dropout_depends_only_on_image_and_epoch(words, tmp_path, monkeypatch):
    """A share of them in training, none in validation."""
    seen: list[tuple[bool, Batch, Tensor]] = []
    plain = Diffusion.conditions

    def noted(self: Diffusion, batch: Batch, dropout: float = 0.0) -> dict[str, Tensor]:
        given = plain(self, batch, dropout)
        seen.append((self.training, batch, given["classes"]))
        return given

    monkeypatch.setattr(Diffusion, "conditions", noted)
    dropped: list[dict[tuple[int, int], bool]] = []
    for folder, batch_size in (("a", 4), ("b", 10)):
        seen.clear()
        long = ["trainer.max_epochs=4", "label_dropout=0.3", f"data.batch_size={batch_size}"]
        train([*words, *long], tmp_path / folder)
        for training, batch, classes in seen:
            assert batch.classes is not None
            kept = classes == batch.classes
            assert kept.all() or training
            assert (classes[~kept] == 3).all()
        trained = [(batch, classes) for training, batch, classes in seen if training]
        dropped.append(
            {
                (batch.epoch, int(index)): bool(classes[i] == 3)
                for batch, classes in trained
                for i, index in enumerate(batch.index)
            }
        )
    common = dropped[0].keys() & dropped[1].keys()
    assert len(common) > 100
    assert {key: dropped[0][key] for key in common} == {key: dropped[1][key] for key in common}
    share = np.mean([dropped[0][key] for key in common])
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / len(common)) ** 0.5
    first, second = ({i: gone for (e, i), gone in dropped[0].items() if e == epoch} for epoch in (0, 1))
    assert any(first[i] != second[i] for i in first.keys() & second.keys())


def colour(images: Tensor) -> list[str]:
    """The colour nearest to each image's median pixel."""
    middle = images.flatten(2).float().median(dim=2).values
    distances = torch.cdist(middle, torch.tensor([*COLOURS.values()]).float())
    return [[*COLOURS][i] for i in distances.argmin(dim=1).tolist()]


REFUSED = {
    "no labels, but guidance": (["data.labels=null", "guidance=cfg"], "needs a class label"),
    "classes without labels": (["data.labels=null", "model.classes=3"], "model.classes=3: the data has no classes"),
    "another number of classes": (["model.classes=4"], "model.classes=4: the data has 3 classes"),
    "guidance without dropout": (["guidance=cfg", "label_dropout=0"], "trained with label_dropout=0"),
    "no worse model": (["guidance=auto"], "set guidance.step to an earlier step"),
    "worse weights without a model": (["guidance=auto", "guidance.weights=raw"], "in training it needs guidance.ckpt"),
    "an interval outside": (["guidance=interval", "guidance.low=1e9", "guidance.high=1e10"], "ranges from"),
    "low above high": (["guidance=interval", "guidance.low=3"], "low"),
    "a share above one": (["label_dropout=1.5"], "label_dropout=1.5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_incompatible_label_settings_are_refused_before_training(command, words, name):
    more, said = REFUSED[name]
    status, out, err = command("train", [*words, *more, "hydra.run.dir=run"])
    assert status == 2, out
    (line,) = err.splitlines()
    assert said in line
