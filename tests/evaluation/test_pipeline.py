"""The baselines of a score: noise and other real images, in the same number as the samples."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mistakes import Features

from diffusion.errors import UserError
from diffusion.evaluation import pipeline
from diffusion.evaluation.pipeline import Scorer


def scorer(split: str, splits: dict[str, Any]) -> Scorer:
    """A scorer without metrics and a ledger."""
    data: Any = SimpleNamespace(splits=splits, shape=(3, 4, 4))
    return Scorer(data, split, Features(), [], Path(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("reference", "others"), [("val", 1), ("test", 1), ("train", 2)])
def test_the_real_baseline_never_uses_the_reference_split(monkeypatch, reference: str, others: int) -> None:
    numbered = ((1, "train"), (2, "val"), (3, "test"))
    splits = {name: SimpleNamespace(images=torch.full((9, 3, 4, 4), i)) for i, name in numbered}
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(pipeline, "extract", lambda images, *_, **__: seen.append(images))
    monkeypatch.setattr(pipeline, "score_features", lambda *_, **__: {})
    monkeypatch.setattr(Scorer, "reference", SimpleNamespace(name=reference, spatial=None))
    assert scorer(reference, splits).baselines(["real"], 5) == []
    assert seen[0].unique().tolist() == [others]
    assert len(seen[0]) == 5


def test_too_few_images_for_scoring_give_a_one_line_error() -> None:
    splits = {"train": range(9), "val": range(2)}
    with pytest.raises(
        UserError,
        match=r"real and floor need at least 4 images of val; add images \(a larger data\.val",
    ):
        scorer("train", splits).check(5, ["floor"])
    with pytest.raises(
        UserError,
        match=r"split=val: it has 2 images, but scores need at least 4; add images \(.*data.tiles",
    ):
        scorer("val", splits).check(5, [])
    with pytest.raises(UserError, match=r"n=3: scores need at least 4 images"):
        scorer("train", splits).check(3, [])
    scorer("train", splits).check(5, ["noise"])


def test_a_small_reference_split_gives_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """The 250 images of the bundled photographs are enough."""
    scorer("val", {"train": range(900), "val": range(250)}).check(5, [])
    assert capsys.readouterr().out == ""
    scorer("val", {"train": range(900), "val": range(199)}).check(5, [])
    assert capsys.readouterr().out.startswith("warning: the reference, split=val, has 199 images; distances to fewer")
