"""The audit for copies in a run: its score, its figure, its line on the console."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from scipy.stats import beta

from diffusion.data import Folder
from diffusion.errors import UserError
from diffusion.evaluation.memorization import copies
from diffusion.evaluation.pipeline import Scorer
from diffusion.metric.record import Reference, Score


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """60 different images of noise within a black border, which allows shifting them."""
    root = tmp_path_factory.mktemp("noise")
    for i in range(60):
        noise = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        noise[[0, 1, -2, -1]] = noise[:, [0, 1, -2, -1]] = 0
        Image.fromarray(noise.numpy()).save(root / f"{i}.png")
    made = Folder(root=root, resolution=16, val=20, test=0, batch_size=4)
    made.setup()
    return made


def test_the_copies_score_has_a_protocol_an_interval_and_a_figure(data: Folder, tmp_path: Path, capsys) -> None:
    train, val = data.splits["train"], data.splits["val"]
    samples = torch.cat([train.images[:12].flip(-1), 255 - val.images[:8]])
    score = copies(samples, data, tmp_path)
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score
    assert (score.metric, score.name, score.n) == ("copies", "copies", 20)
    details = score.source | score.settings
    flagged = details["flagged"]
    assert flagged >= 12
    ends = beta.ppf(0.025, flagged, 21 - flagged), beta.ppf(0.975, flagged + 1, 20 - flagged)
    assert score.interval == pytest.approx(ends)  # Clopper and Pearson's
    assert details["rate"] == pytest.approx(1 / 21)
    assert score.reference == Reference("train", 40, train.key)
    assert {c["sample"]: c["train"] for c in details["closest"]} == {i: train.names[i] for i in range(10)}
    with Image.open(tmp_path / "figures/copies.png") as picture:
        assert picture.width > 500
    assert details["repeats"] == 12
    assert "12 near-duplicates of training images: see" in capsys.readouterr().out.replace("\n", " ")


def test_missing_held_out_images_are_refused(data: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor: Any = None
    scorer = Scorer(data, "train", extractor, [], tmp_path, tmp_path)
    scorer.check(4, [], ["pixels"])
    monkeypatch.setitem(data.splits, "val", data.splits["val"].take(torch.arange(0)))
    scorer.check(4, [])
    with pytest.raises(UserError):
        scorer.check(4, [], ["pixels"])
