"""The recipes of EDM2 and of labelled CIFAR-10 train, with narrow networks."""

import hashlib
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from composing import train
from torchvision.datasets import CIFAR10

from diffusion.runs.metrics import read_metrics

STEPS = 20
SHORT = (f"trainer.max_steps={STEPS}", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1",
         "trainer.limit_val_batches=1", "score.n=0", "samples.n=0")  # fmt: skip
NARROW = {
    "edm2": ["model.channels=[8,8]", "model.attention=[false,true]", "model.head_dim=4", "data.resolution=16",
             "data.batch_size=4", "lr_scheduler.warmup=5", "lr_scheduler.reference=10"],
    "cifar10": ["model.channels=[8,8,8,8]", "model.groups=4", "data.batch_size=4", "lr_scheduler.warmup=5"],
}  # fmt: skip


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files in CIFAR-10's format, 8 images each."""
    folder, random, sums = tmp_path / "cifar-10-batches-py", np.random.default_rng(0), {}
    folder.mkdir()
    names = {f"data_batch_{i}": 8 for i in range(1, 6)} | {"test_batch": 8}
    for name, n in names.items():
        pixels = random.integers(0, 256, (n, 3072), np.uint8)
        labels = [(i + len(sums)) % 10 for i in range(n)]
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels, "filenames": [""] * n}, 2))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"kind {i}" for i in range(10)]}, 2))
    *training, test = sums.items()
    monkeypatch.setattr(CIFAR10, "train_list", [[*each] for each in training])
    monkeypatch.setattr(CIFAR10, "test_list", [[*test]])
    meta = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta})
    return tmp_path


def check(name: str, changes: list[str], photos: Path, cifar10: Path, folder: Path) -> None:
    data = {
        "edm2": ["data=folder", f"data.root={photos}", "data.val=8", "data.test=8"],
        "cifar10": [f"data.root={cifar10}", "data.val=4", "data.eval_batch_size=4"],
    }
    train([f"experiment={name}", *data[name], *changes, *SHORT], folder)
    loss = read_metrics(folder / "metrics.csv")["train/loss"]
    assert len(loss.value) == STEPS
    assert all(map(math.isfinite, loss.value))
    assert len(set(loss.value)) == STEPS


@pytest.mark.parametrize("name", NARROW)
def test_narrow_recipes_train_for_twenty_steps(name: str, photos: Path, cifar10: Path, tmp_path: Path) -> None:
    check(name, NARROW[name], photos, cifar10, tmp_path / "run")
