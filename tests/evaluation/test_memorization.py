"""The audit for copies as a run uses it: its record, its figure, its line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusion.data import Folder
from diffusion.errors import UserError
from diffusion.evaluation import memorization as audit
from diffusion.evaluation.memorization import audit_samples, check, sentence
from diffusion.metric.features import FeatureExtractor
from diffusion.report.pairs import pairs


class Corners(FeatureExtractor):
    """Features for a test: the corner of an image."""

    name, num_features, resize = "corners", 48, "none"

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.freeze()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images[..., :4, :4].flatten(1).float()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """60 pictures of noise within a black border, which lets them be shifted: no two are alike."""
    root = tmp_path_factory.mktemp("noise")
    for i in range(60):
        noise = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        noise[[0, 1, -2, -1]] = noise[:, [0, 1, -2, -1]] = 0
        Image.fromarray(noise.numpy()).save(root / f"{i}.png")
    made = Folder(root, resolution=16, val=20, test=0, batch_size=4)
    made.prepare_data()
    made.setup()
    return made


@pytest.mark.parametrize(("kinds", "features"), [(["pixels"], "pixels"), (["pixels", "features"], "pixels+corners")])
def test_copies_are_recorded_with_their_protocol_and_shown(
    data: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], kinds: list[str], features: str
) -> None:
    train, val = data.splits["train"], data.splits["val"]
    samples = torch.cat([train.images[:6].flip(-1), 255 - val.images[:14]])
    (record,) = audit_samples(samples, data, kinds, Corners(), tmp_path, seed=3)
    json.dumps(record)
    assert (record["n"], record["seed"], record["features"]) == (20, 3, features)
    assert record["flagged"] >= 6
    assert record["low"] < record["value"] < record["high"]
    assert record["rate"] == pytest.approx(len(kinds) / 21)
    assert record["reference"] == {"split": "train", "n": 40, "key": train.key}
    assert {c["sample"]: c["train"] for c in record["closest"][:6]} == {i: train.names[i] for i in range(6)}
    with Image.open(tmp_path / "figures/copies.png") as picture:
        assert picture.width > 500
    assert record["repeats"] == 6
    assert record["calibration"] == {"split": "val", "n": 20, "left_out": 0, "key": val.key}
    said = " ".join(capsys.readouterr().out.split())
    assert "6 of them repeat a training image (within 8/255): look at the figure" in said
    assert "validation images repeat" not in said


def test_the_figure_shows_training_images_mirrored_where_the_sample_is(
    data: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[torch.Tensor, torch.Tensor]] = []
    monkeypatch.setattr(audit, "pairs", lambda x, y, labels: shown.append((x, y)) or pairs(x, y, labels))
    train = data.splits["train"].images
    samples = torch.cat([train[:5], train[5:10].flip(-1)])
    audit_samples(samples, data, ["pixels"], Corners(), tmp_path)
    ((above, below),) = shown
    assert len(above) == 10
    assert torch.equal(above, below)


def test_held_out_repeats_are_counted_and_said(
    data: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = data.splits["train"], data.splits["val"]
    repeating = replace(
        val, images=torch.cat([train.images[:1].flip(-1).roll(1, -2), train.images[1:2], val.images[2:]])
    )
    monkeypatch.setitem(data.splits, "val", repeating)
    samples = train.images[10:20].roll((-1, 1), dims=(-2, -1))
    (record,) = audit_samples(samples, data, ["pixels", "features"], Corners(), tmp_path)
    assert (record["flagged"], record["repeats"]) == (10, 10)
    assert record["rate"] == pytest.approx(2 / 19)
    assert record["calibration"] == {"split": "val", "n": 18, "left_out": 2, "key": repeating.key}
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith("; 2 of 20 validation images repeat training images and do not calibrate")


def test_real_images_are_embedded_once_and_again_when_one_changes(
    data: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    extractor, seen = Corners(), []
    extractor.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))

    def audited(samples: torch.Tensor) -> int:
        seen.clear()
        (record,) = audit_samples(samples, data, ["features"], extractor, tmp_path)
        found.append((record["value"], record["thresholds"]))
        return sum(seen)

    found: list[tuple[float, dict[str, float]]] = []
    train, val = data.splits["train"], data.splits["val"]
    assert audited(val.images[:7]) == 40 + 2 * 20 + 2 * 7  # held-out images and samples mirrored, too
    assert audited(val.images[:7]) == 2 * 7
    assert found[0] == found[1]
    train.images[3, 0, 0, 0] ^= 1
    try:
        assert audited(val.images[:7]) == 40 + 2 * 7
    finally:
        train.images[3, 0, 0, 0] ^= 1
    assert audited(val.images[:9]) == 2 * 9
    for file in (tmp_path / "cache/features").iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    assert audited(val.images[:7]) == 40 + 2 * 20 + 2 * 7  # damaged: made again
    assert found[-1] == found[0]


def test_the_sentence_accuses_beyond_chance_and_where_samples_repeat() -> None:
    record = {"flagged": 4, "n": 400, "value": 0.01, "low": 0.003, "high": 0.026, "rate": 0.01, "repeats": 0}
    record |= {"calibration": {"n": 250, "left_out": 0}}
    assert sentence(record).endswith(": no sign of copying")
    assert sentence(record | {"low": 0.02}).endswith(": more than chance: look at the figure")
    few, many = record | {"repeats": 1}, record | {"repeats": 4, "low": 0.02}
    assert sentence(few).endswith(": 1 of them repeats a training image (within 8/255): look at the figure")
    both = ": more than chance and 4 of them repeat a training image (within 8/255): look at the figure"
    assert sentence(many).endswith(both)


def test_an_unknown_distance_and_missing_held_out_images_are_one_line(data: Folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="audit: smell is no distance; choose of pixels, features"):
        check(["smell"])
    data.splits["val"], kept = data.splits["val"].take(torch.arange(0)), data.splits["val"]
    with pytest.raises(UserError, match="no validation images"):
        audit_samples(kept.images, data, ["pixels"], Corners(), tmp_path)
    data.splits["val"] = data.splits["train"].take(torch.arange(5))
    with pytest.raises(UserError, match="all 5 validation images repeat training images"):
        check(["pixels"], data)
    data.splits["val"] = kept
    check(["pixels"], data)
