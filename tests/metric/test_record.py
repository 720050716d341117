"""Scores in scores.json."""

import json

import pytest

from diffusion.config import schema
from diffusion.metric.record import Reference, Score

FULL = Score(
    metric="kid_lite0",
    value=0.0123,
    n=256,
    what="samples",
    reference=Reference("val", 250, "k3y"),
    error=0.001,
    samples_error=0.0005,
    low=0.01,
    high=0.015,
    level=0.95,
    std=0.002,
    settings={"subset_size": 64, "degree": 3},
    features="lite0",
    weights_hash="a1b2c3",
    resize="bicubic",
    resolution="32x32",
    source={"sampler": {"name": "DDIM", "grid": {"name": "uniform"}}, "step": 400, "closest": [{"ratio": 0.5}]},
    code="0.1.0 abc",
)
BARE = Score("coverage", 0.5, 64)


def through_json(score: Score) -> Score:
    return Score.from_json(json.loads(json.dumps(score.to_json())))


@pytest.mark.parametrize("score", [FULL, BARE, Score("fid", 1.0, None, "noise", Reference("train"))])
def test_a_score_survives_a_json_round_trip(score: Score) -> None:
    assert through_json(score) == score


def test_split_half_was_called_floor_in_older_files() -> None:
    assert Score.from_json(BARE.to_json() | {"what": "floor"}).what == "split_half"
    assert schema.ScoreSettings(baselines=["noise", "floor"]).baselines == ["noise", "split_half"]


def test_the_protocol_includes_the_settings_but_not_the_source() -> None:
    assert BARE.protocol_key == BARE.of("noise", "x", {"seed": 1}).protocol_key
    for other in (
        {"n": 65}, {"features": "lite0"}, {"weights_hash": "0"}, {"resize": "x"}, {"resolution": "8x8"},
        {"settings": {"k": 5}}, {"reference": {"split": "val"}},
        {"metric": "recall"},
    ):  # fmt: skip
        assert Score.from_json(BARE.to_json() | other).protocol_key != BARE.protocol_key, other


def test_each_metric_states_whether_higher_is_better() -> None:
    for metrics, expected in (
        ("coverage_lite0 precision recall", True),
        ("fid fd_lite0 kid cmmd copies bits_per_dim", False),
        ("density unknown", None),
    ):
        assert {Score(metric, 1.0, 9).higher_is_better for metric in metrics.split()} == {expected}
