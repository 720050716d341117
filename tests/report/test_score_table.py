"""The table of scores on the console: every number is complete in 80 columns."""

import io
import math

import pytest
from rich.console import Console

from diffusion.metric.record import Reference, Score
from diffusion.report import scores
from diffusion.report.formatting import number, plus_minus
from diffusion.report.scores import print_scores

WHATS = ("samples", "floor", "real", "untrained", "noise")


def score(metric: str, what: str, value: float, n: int = 250) -> Score:
    low, high = sorted((0.9 * value, 1.1 * value))
    return Score(metric, value, n, what, Reference("val", 250), low=low, high=high)


def test_no_number_is_truncated_on_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=80)
    monkeypatch.setattr(scores, "console", console)
    values = {"sfd_lite0": 29612.3, "kid_lite0": -0.00958, "inception_score_lite0": 1.0612, "fd_lite0": 283.41}
    print_scores([score(metric, what, value) for metric, value in values.items() for what in WHATS])
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    for text in ("29600", "-0.00958", "1.06", "283"):
        assert printed.count(f" {text} ") + printed.count(f" {text}\n") == len(WHATS)
    assert "[26700, 32600]" in printed
    assert "[-0.01054, -0.00862]" in printed


def test_a_narrow_console_loses_no_name_and_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=40)
    monkeypatch.setattr(scores, "console", console)
    print_scores([score("kid_lite0", what, -0.00958) for what in ("samples", "floor", "real", "noise")])
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in printed
    assert "kid_lite0" in printed
    assert "[-0.01054, -0.00862]" in printed


def test_a_baseline_with_fewer_images_shows_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores([score("fd", "samples", 1.0, 50), score("fd", "real", 1.0, 20), score("fd", "noise", 1.0, 50)])
    out = capsys.readouterr().out
    assert "real (n=20)" in out
    assert "noise (" not in out


def test_numbers_are_rounded_to_the_digits_of_their_interval() -> None:
    shown = [plus_minus(*pair) for pair in ((105.7321, 1.234), (0.0123, 0.00996), (29612.3, 2961.0), (-0.3, 52.0))]
    assert shown == ["105.7 ± 1.2", "0.012 ± 0.010", "29600 ± 3000", "0 ± 52"]
    assert [plus_minus(2.5, half) for half in (0.0, 1e-17, math.nan)] == [
        "2.5 ± 0",
        "2.5 ± 0",
        "2.5",
    ]


def test_numbers_without_an_interval_have_four_digits_and_no_exponent_below_1e6() -> None:
    shown = [number(x) for x in (0.0, 0.00612, 283.41, 999.99, 29612.3, -1234.0, 999_400.0, 2e6, math.nan)]
    assert shown == ["0", "0.00612", "283.4", "1000", "29610", "-1234", "999400", "2e+06", "nan"]
