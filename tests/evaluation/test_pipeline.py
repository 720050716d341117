"""What a score is read against: other real images, as many."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffusion.errors import UserError
from diffusion.evaluation import pipeline as scoring
from diffusion.training.summary import say_scores


def splits(**images: torch.Tensor) -> Any:
    return SimpleNamespace(splits={name: SimpleNamespace(images=x) for name, x in images.items()}, resolution=4)


@pytest.mark.parametrize(("reference", "others"), [("val", 1), ("test", 1), ("train", 2)])
def test_real_images_are_never_those_of_the_reference(monkeypatch, reference: str, others: int) -> None:
    data = splits(**{name: torch.full((9, 3, 4, 4), i) for i, name in ((1, "train"), (2, "val"), (3, "test"))})
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(scoring, "extract", lambda images, *_, **__: seen.append(images))
    monkeypatch.setattr(scoring, "score_features", lambda *_, **__: {})
    monkeypatch.setattr(scoring, "noise_images", lambda *_: None)
    against = SimpleNamespace(name=reference, spatial=None)
    assert scoring.yardsticks(["real"], data, 5, None, against) == []  # type: ignore[arg-type]
    assert seen[0].unique().tolist() == [others]
    assert len(seen[0]) == 5


def test_real_images_that_are_not_there_are_one_line() -> None:
    data = SimpleNamespace(splits={"train": range(9), "val": range(2)})
    with pytest.raises(UserError, match=r"real and floor want at least 4 images of val; set data\.val"):
        scoring.check("train", 5, ["floor"], data)  # type: ignore[arg-type]
    scoring.check("train", 5, ["noise"], data)  # type: ignore[arg-type]


def test_a_yardstick_of_fewer_images_says_so(capsys) -> None:
    record = {"metric": "fd", "value": 1.0, "low": 0.5, "high": 1.5, "n": 50, "reference": {"n": 9, "split": "val"}}
    say_scores([{**record, "what": "samples"}, {**record, "what": "real", "n": 20}, {**record, "what": "noise"}])
    out = capsys.readouterr().out
    assert "real (n=20)" in out
    assert "noise (" not in out
