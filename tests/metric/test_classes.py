"""Scores by class: each class against its own real images and photographs; notes about those with few."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor

from diffusion.data.module import Split, place
from diffusion.kinds.pixels import Pixels
from diffusion.metric.distances import FrechetDistance
from diffusion.metric.diversity import PrecisionRecall
from diffusion.metric.estimate import SampleMetric
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.record import Score
from diffusion.scoring.classes import score_classes
from diffusion.scoring.pipeline import Scorer


class Brightness(FeatureExtractor):
    name, num_features, resize = "brightness", 1, "none"

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.freeze()

    def features(self, images: Tensor) -> Tensor:
        return images.float().flatten(1).mean(dim=1, keepdim=True)


def grey(levels: Tensor) -> Tensor:
    return levels.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4)


def scored(
    folder: Path, real: list[tuple[int, int, int]], samples: list[tuple[int, int]], metric: SampleMetric | None = None
) -> dict[str, Score]:
    """The scores of samples (class, level) against real images (class, level, photograph), by what was scored."""
    labels, levels, photographs = torch.tensor(real).T
    names = [f"{photo}{place(i, 0, 4)}" for i, photo in enumerate(photographs.tolist())]
    splits = {"val": Split(grey(levels), names, labels)}
    data: Any = SimpleNamespace(
        splits=splits, classes=["sky", "sea", "sand"], shape=(3, 4, 4), kind=Pixels(), missing=False
    )
    scorer = Scorer(data, "val", Brightness(), [metric or FrechetDistance()], folder, folder)
    classes, drawn = torch.tensor(samples).T
    return {score.what: score for score in score_classes(scorer, grey(drawn), classes, seed=7)}


def test_samples_of_a_class_are_compared_with_real_images_of_this_class(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one dimension, the Fréchet distance of two normal distributions is (m − m')² + (s − s')²."""
    sky = [(0, level, i % 5) for i, level in enumerate((0, 10, 20, 30, 40, 50, 60, 70, 80, 90))]
    sea = [(1, level, i % 3) for i, level in enumerate((200, 210, 220, 230, 240, 250))]
    mixed = [sky[0], *sea, *sky[1:], (2, 0, 9), (2, 1, 9)]  # two images of sand are too few
    drawn = [(1, 110 + level // 2) for _, level, _ in sea] + [(0, level) for _, level, _ in sky] + [(2, 0)] * 8
    found = scored(tmp_path, mixed, drawn)
    assert [*found] == ["class sky", "class sea"]
    assert found["class sky"].value == pytest.approx(0, abs=1e-6)
    level = torch.tensor([level for _, level, _ in sea]).double()
    expected = (level.mean() - 110 - level.mean() / 2) ** 2 + (level.std() / 2) ** 2
    assert found["class sea"].value == pytest.approx(float(expected), rel=1e-6)
    assert [(score.n, score.reference.split, score.reference.n) for score in found.values()] == [
        (10, "val", 10),
        (6, "val", 6),
    ]
    one = found["class sea"]
    assert one.interval is not None
    assert one.error is not None
    assert (one.interval[1] - one.value) / one.error == pytest.approx(scipy.stats.t.ppf(0.975, 2), rel=1e-4)
    assert (one.of_class, one.source["seed"]) == ("sea", 7)
    note, few = capsys.readouterr().out.replace("\n", " ").split("note: ")[1:]
    assert "class sand is not scored: 8 samples, 2 real images; scores need at least 4" in note
    assert "3 of 3 classes have fewer than 200" in few


def test_a_class_too_small_for_every_metric_leaves_the_scores_of_the_others(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = [(0, 3 * i, i) for i in range(20)] + [(1, 9 * i, i) for i in range(5)]
    found = scored(tmp_path, real, [row[:2] for row in real], PrecisionRecall(k=5))
    assert {*found} == {"class sky"}
    assert "class sea is not scored: none of the chosen metrics works for 5 images" in capsys.readouterr().out
