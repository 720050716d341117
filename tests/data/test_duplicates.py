"""Near-duplicates across splits are found, and images that only look similar are not."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from diffusion.data import Folder, duplicates
from diffusion.data.batches import Split
from diffusion.data.duplicates import EITHER_WAY, NEAR, Pair, across, repeats
from diffusion.data.module import ImageData


def noise(n: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def splits(train: Tensor, val: Tensor, test: Tensor) -> dict[str, Split]:
    parts = {"train": train, "val": val, "test": test}
    return {name: Split(images, [f"{name}{i}" for i in range(len(images))]) for name, images in parts.items()}


def test_near_duplicates_are_found_including_mirrored_ones() -> None:
    train, val, test = noise(1100, 0), noise(600, 1), noise(5, 2)
    val[580] = train[1050]
    val[3] = train[4].flip(-1)
    test[1] = (val[7].int() + 7).clamp(0, 255).byte()
    test[2] = (val[8].int() + 12).clamp(0, 255).byte()  # farther than 8 grey levels
    assert sorted(across(splits(train, val, test))) == [
        Pair("test1", "test", "val7", "val"),
        Pair("val3", "val", "train4", "train"),
        Pair("val580", "val", "train1050", "train"),
    ]


def test_repeats_finds_near_duplicates_in_any_given_view() -> None:
    known = noise(1100, 0)
    images = torch.cat([noise(600, 1), known[[1050]], known[[4]].flip(-1), (known[[7]] // 2)])
    assert repeats(images, known, EITHER_WAY).nonzero().flatten().tolist() == [600, 601]
    assert repeats(images, known, EITHER_WAY[1:]).nonzero().flatten().tolist() == [601]
    assert repeats(images[:0], known, EITHER_WAY).tolist() == []


def test_repeats_compares_all_images_that_may_be_near() -> None:
    g = torch.Generator().manual_seed(0)
    known = 40 + 175 * torch.rand(700, 3, 2, 2, generator=g)  # in 12 dimensions
    away = torch.randn(200, 3, 2, 2, generator=g) * torch.linspace(5, 11, 200)[:, None, None, None]
    known, images = (x.byte().repeat_interleave(8, 2).repeat_interleave(8, 3) for x in (known, known[:200] + away))
    rms = (duplicates.miniature(images)[:, None] - duplicates.miniature(known)).square().mean(dim=2).sqrt()
    near = (rms < NEAR).any(dim=1)
    assert 50 < near.sum() < 150
    assert torch.equal(repeats(images, known, EITHER_WAY[:1]), near)


def test_a_folder_prints_and_reports_its_near_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = noise(40, 0).permute(0, 2, 3, 1).numpy()
    for i in range(40):
        Image.fromarray(images[i]).save(tmp_path / f"{i}.png")
        Image.fromarray(images[i]).save(tmp_path / f"{i}.bmp")  # other bytes, the same image
    data = Folder(tmp_path, resolution=16, val=20, test=0, batch_size=4)
    data.prepare_data()
    used = [entry for entry in data.report if entry["action"] == "used"]
    names = {split: set(data.splits[split].names) for split in ("train", "val")}
    both = {name for name in names["val"] if {f"{Path(name).stem}.png", f"{Path(name).stem}.bmp"} & names["train"]}
    assert {entry["path"] for entry in used} == both != set()
    line = capsys.readouterr().out
    assert f"{len(both)} held-out images are near-duplicates" in line
    pairs = json.loads(Path(line.split("full list in ")[1].strip()).read_text())["near-duplicates"]
    assert {pair["name"] for pair in pairs} == both


class Drawn(ImageData):
    """A data set with two training images in the validation split and none in the test split."""

    def load(self) -> dict[str, Split]:
        train = noise(20, self.seed)
        return splits(train, train[[3, 4]].flip(0), noise(5, 9))


def report(seed: int = 0) -> list[dict[str, str]]:
    data = Drawn(resolution=16, batch_size=4, seed=seed)
    data.prepare_data()
    data.setup()
    return data.report


def test_near_duplicates_are_printed_at_every_start_but_computed_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = report()
    assert first == [
        {"path": f"val{i}", "reason": f"in val: a near-duplicate of train{4 - i} in train", "action": "used"}
        for i in range(2)
    ]
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("data: 2 held-out images are near-duplicates")
    with monkeypatch.context() as patched:
        patched.setattr(duplicates, "across", lambda *_: pytest.fail("compared again"))
        assert report() == first
        assert capsys.readouterr().out.splitlines() == [line]
    compared = []
    monkeypatch.setattr(duplicates, "across", lambda splits: compared.append(splits) or across(splits))
    report(seed=1)  # other images
    (file,) = [file for file in cache.glob("duplicates-*.json") if str(file) in line]
    file.write_text(file.read_text()[:40])
    assert report() == first
    assert len(compared) == 2


def test_distinct_splits_have_no_near_duplicates() -> None:
    assert across(splits(noise(50, 0), noise(9, 1), noise(0, 2))) == []
