"""CIFAR-10 is read from an archive in its real format; the tests create a tiny one."""

import hashlib
import io
import pickle
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from diffusion.config.build import make
from diffusion.data import Cifar10, cifar10
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
    data = Cifar10(root, **{"val": 5, **options})
    data.prepare_data()
    data.setup()
    return data


def test_splits_are_disjoint_and_contain_the_official_pixels(root: Path) -> None:
    data = load(root)
    pixels = np.load(root.parent / "pixels.npy").reshape(-1, 3, 32, 32)
    official = {"train": pixels[:-PER_BATCH], "test": pixels[-PER_BATCH:]}
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 25, "val": 5, "test": 6}
    seen = set()
    for split in data.splits.values():
        for image, name in zip(split.images, split.names, strict=True):
            part, index = name.split()
            assert np.array_equal(image.numpy(), official[part][int(index)])
            seen.add(name)
    assert len(seen) == 36
    assert load(root).keys == data.keys
    assert load(root, seed=1).splits["val"].names != data.splits["val"].names
    assert load(root, seed=1).splits["test"].key == data.splits["test"].key


def test_each_image_has_its_class_if_labels_are_requested(root: Path) -> None:
    data, plain = load(root, labels=True), load(root)
    assert data.classes == NAMES
    for name, split in data.splits.items():
        numbers = [int(i) + 30 * (part == "test") for part, i in map(str.split, split.names)]
        assert split.labels is not None
        assert split.labels.dtype == torch.int64
        assert split.labels.tolist() == [LABELS[i] for i in numbers]
        assert split.key == plain.splits[name].key
        assert plain.splits[name].labels is None
    assert plain.classes == []


def test_images_that_are_in_two_splits_are_reported(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = load(root)
    split = next(name for name in ("train", "val") if "train 2" in data.splits[name].names)
    reason = f"in test: a near-duplicate of train 2 in {split}"
    assert data.report == [{"path": "test 5", "reason": reason, "action": "used"}]
    assert "data: 1 held-out image is a near-duplicate" in capsys.readouterr().out


def test_missing_files_and_invalid_settings_give_a_one_line_error(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"data\.val=30: expected fewer than the 30"):
        load(root, val=30)
    with pytest.raises(UserError, match=r"is not in .*nowhere.*set data.root to its folder"):
        Cifar10(tmp_path / "nowhere", download=False).prepare_data()

    def offline(*args: object, **options: object) -> None:
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", offline)
    with pytest.raises(UserError, match=r"can't be downloaded .*name resolution"):
        Cifar10(tmp_path / "offline").prepare_data()
    for wrong, expected in {"resolution=64": "expected 32", "val=-1": "expected a whole number of at least 0"}.items():
        name, value = wrong.split("=")
        with pytest.raises(UserError, match=rf"data\.{wrong}: {expected}"):
            make({"_target_": "diffusion.data.Cifar10", "root": str(root), name: int(value)}, "data")


def test_the_archive_is_unpacked_by_one_process_at_a_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads stand for two processes: locks belong to opened files."""
    inside, most = [0], [0]

    def official(*args: Any, **kwargs: Any) -> CIFAR10:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.1)
        inside[0] -= 1
        return CIFAR10(*args, **kwargs)

    monkeypatch.setattr(cifar10, "CIFAR10", official)
    threads = [threading.Thread(target=load, args=(root,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
