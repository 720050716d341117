"""CIFAR-10 is read from an archive in its real format; the tests create a tiny one."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from diffusion.data import Cifar10
from diffusion.errors import UserError

PER_BATCH = 6
LABELS = [(7 * i + i // 10) % 10 for i in range(6 * PER_BATCH)]
NAMES = [f"kind {i}" for i in range(10)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the archive: five training batches and a test batch, rows of 1024 red, green and blue bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (6 * PER_BATCH, 3072), np.uint8)
    pixels[-1] = pixels[2]  # the last test image is also a training image
    members, sums = {}, {}
    for k, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        rows = pixels[k * PER_BATCH : (k + 1) * PER_BATCH]
        members[name] = pickle.dumps(
            {"data": rows, "labels": LABELS[k * PER_BATCH : (k + 1) * PER_BATCH], "filenames": [""] * PER_BATCH}, 2
        )
    members["batches.meta"] = pickle.dumps({"label_names": NAMES}, 2)
    archive = tmp_path / "cifar" / CIFAR10.filename
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in members.items():
            sums[name] = hashlib.md5(content).hexdigest()
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    np.save(tmp_path / "pixels.npy", pixels)
    return archive.parent


def load(root: Path, **options: int) -> Cifar10:
    data = Cifar10(root=root, **{"val": 5, **options})
    data.setup()
    return data


def test_splits_are_disjoint_and_contain_the_official_pixels_and_classes(root: Path) -> None:
    data, plain = load(root, labels=True), load(root)
    pixels = np.load(root.parent / "pixels.npy").reshape(-1, 3, 32, 32)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 25, "val": 5, "test": 6}
    assert data.classes == NAMES
    seen = set()
    for name, split in data.splits.items():
        numbers = [int(i) + 30 * (part == "test") for part, i in map(str.split, split.names)]
        assert np.array_equal(split.images.numpy(), pixels[numbers])
        assert split.labels.tolist() == [LABELS[i] for i in numbers]
        assert (split.key, plain.splits[name].labels) == (plain.splits[name].key, None)
        seen |= {*numbers}
    assert len(seen) == 36
    assert load(root, seed=1).splits["val"].names != data.splits["val"].names
    assert load(root, seed=1).splits["test"].key == data.splits["test"].key
    assert [entry["path"] for entry in data.report] == ["test 5"]  # a near-duplicate of train 2


def test_missing_files_give_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **options: object) -> None:
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", offline)
    with pytest.raises(UserError, match="name resolution"):
        Cifar10(root=tmp_path / "offline").setup()
