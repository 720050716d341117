"""The audit for copies in a run: its score, its figure, its line on the console."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from scipy.stats import beta

from diffusion.data import Folder
from diffusion.errors import UserError
from diffusion.metric.record import Reference, Score
from diffusion.scoring.memorization import copies
from diffusion.scoring.pipeline import Scorer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """60 different images of noise."""
    root = tmp_path_factory.mktemp("noise")
    for i in range(60):
        noise = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        Image.fromarray(noise.numpy()).save(root / f"{i}.png")
    made = Folder(root=root, resolution=16, val=10, test=10, batch_size=4)
    made.setup()
    return made


def test_the_copies_score_has_a_protocol_an_interval_and_a_figure(data: Folder, tmp_path: Path, capsys) -> None:
    train, val, test = data.splits.values()
    new = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(99))
    samples = torch.cat([train.images[:12].flip(-1), val.images[:2], test.images[:1], new])
    score = copies(samples, data, tmp_path, "test")
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score
    assert (score.metric, score.name, score.n, score.value) == ("copies", "copies", 23, 15 / 23)
    assert (score.source["flagged"], score.source["held_out"]) == (15, 3)
    assert score.source["chance"] == pytest.approx(beta.ppf(0.975, 1, 60))  # none of 60 images
    assert score.interval == pytest.approx((beta.ppf(0.025, 15, 9), beta.ppf(0.975, 16, 8)))  # Clopper and Pearson's
    assert score.reference == Reference("train", 40, train.key)
    known = [("train", i) for i in range(12)] + [("val", 0), ("val", 1), ("test", 0)]
    pairs = {pair["sample"]: (pair["split"], pair["image"]) for pair in score.source["closest"]}
    assert len(pairs) == 10
    assert pairs == {i: (known[i][0], data.splits[known[i][0]].names[known[i][1]]) for i in pairs}
    with Image.open(tmp_path / "figures/copies.png") as picture:
        assert picture.width > 500
    assert "3 of them of held-out images" in capsys.readouterr().out.replace("\n", " ")
    assert copies(samples, data, tmp_path).source["flagged"] == 14  # without the test split


def test_missing_held_out_images_are_refused(data: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor: Any = SimpleNamespace(kind="pixels", suit=lambda kind, shape: None)
    scorer = Scorer(data, "train", extractor, [], tmp_path, tmp_path)
    scorer.check(4, [], ["pixels"])
    monkeypatch.setitem(data.splits, "val", data.splits["val"].take(torch.arange(0)))
    scorer.check(4, [])
    with pytest.raises(UserError):
        scorer.check(4, [], ["pixels"])
