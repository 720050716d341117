"""The audit for copies in a run: its score, its figure, its line on the console."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusion.data import Folder
from diffusion.errors import UserError
from diffusion.evaluation.memorization import audit_copies
from diffusion.evaluation.pipeline import Scorer
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.record import Reference, Score
from diffusion.report import figures


class Corners(FeatureExtractor):
    """Features: the corner of an image."""

    name, num_features, resize = "corners", 48, "none"

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.freeze()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images[..., :4, :4].flatten(1).float()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """60 different images of noise within a black border, which allows shifting them."""
    root = tmp_path_factory.mktemp("noise")
    for i in range(60):
        noise = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        noise[[0, 1, -2, -1]] = noise[:, [0, 1, -2, -1]] = 0
        Image.fromarray(noise.numpy()).save(root / f"{i}.png")
    made = Folder(root, resolution=16, val=20, test=0, batch_size=4)
    made.setup()
    return made


@pytest.mark.parametrize(("kind", "metric"), [("pixels", "copies"), ("features", "copies_corners")])
def test_the_copies_score_has_a_protocol_and_a_figure(data: Folder, tmp_path: Path, kind: str, metric: str) -> None:
    train, val = data.splits["train"], data.splits["val"]
    samples = torch.cat([train.images[:6].flip(-1), 255 - val.images[:14]])
    score = audit_copies(samples, data, kind, Corners(), tmp_path)
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score
    assert (score.metric, score.name, score.n) == (metric, metric, 20)
    details = score.details
    assert details["flagged"] >= 6
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.value < score.high
    assert 0 < details["p_value"] < 0.025
    assert details["rate"] == pytest.approx(1 / 21)
    assert score.reference == Reference("train", 40, train.key)
    assert {c["sample"]: c["train"] for c in details["closest"][:6]} == {i: train.names[i] for i in range(6)}
    with Image.open(tmp_path / f"figures/{metric}.png") as picture:
        assert picture.width > 500
    assert details["repeats"] == 6


def test_the_figure_mirrors_training_images_like_their_samples(
    data: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[torch.Tensor, torch.Tensor]] = []
    draw = figures.copies
    monkeypatch.setattr(figures, "copies", lambda x, y, ratios: shown.append((x, y)) or draw(x, y, ratios))
    train = data.splits["train"].images
    samples = torch.cat([train[:5], train[5:10].flip(-1)])
    audit_copies(samples, data, "pixels", Corners(), tmp_path)
    ((above, below),) = shown
    assert len(above) == 10
    assert torch.equal(above, below)


def test_embeddings_of_real_images_are_cached(data: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    extractor, seen = Corners(), []
    extractor.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    for n, real in ((7, 40 + 2 * 20), (9, 0)):  # held-out images and samples are also mirrored
        seen.clear()
        audit_copies(data.splits["val"].images[:n], data, "features", extractor, tmp_path)
        assert sum(seen) == real + 2 * n + 3  # and the first image of each set, as a check of the extractor


def test_missing_held_out_images_are_refused(data: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(data, "train", Corners(), [], tmp_path, tmp_path)
    scorer.check(4, [], ["pixels"])
    monkeypatch.setitem(data.splits, "val", data.splits["val"].take(torch.arange(0)))
    scorer.check(4, [])
    with pytest.raises(UserError):
        scorer.check(4, [], ["pixels"])
