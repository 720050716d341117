"""The sentence about the floor claims nothing that the intervals do not carry."""

import math

from diffusion.findings.underfitting import Row, sentence
from diffusion.report.noise_levels import floor

LEVELS = [0.02, 0.2, 2.0, 20.0]


def rows(behind: list[float], gap: list[float], half: float = 0.1) -> list[Row]:
    names = ["floor", "train", "held_out", "best", "above", "weight", "noisy", "compared"]
    others = dict.fromkeys(names, 1.0)
    halves = [f"{name}_half" for name in ("floor", "train", "held_out", "above", "behind", "gap")]
    each = zip(LEVELS, behind, gap, strict=True)
    return [{"level": level, "behind": b, "gap": g, **others, **dict.fromkeys(halves, half)} for level, b, g in each]


def test_the_sentence_names_the_levels_whose_intervals_are_above_zero_and_the_largest_share() -> None:
    found = sentence(rows([-9, 0.05, 0.2, 0.5], [0.3, 0.09, 0, 0.4]))
    assert found == (
        "At noise levels 2 to 20 it is under-fitted: its error on training images is up to 50.0% ± 10.0% (at 20) above "
        "that of their best denoiser without the photograph of the image; at noise levels 0.02 and 20 it memorizes: "
        "its error on training images is up to 40.0% ± 10.0% (at 20) below that on held-out images."
    )
    found = sentence(rows([0, 0, 0, 0.5], [0, 0, 0, 0]))
    assert found.startswith("At noise level 20 it is under-fitted: its error on training images is 50.0% ± 10.0% above")


def test_without_intervals_it_cannot_be_told() -> None:
    """Held-out images of a single photograph have no interval."""
    none = "At no noise level is it shown to be under-fitted; at none is it shown to memorize."
    assert sentence(rows([0.1, -1, 0, 0.05], [-1, 0.1, 0, 0])) == none
    found = sentence(rows([9] * 4, [9] * 4, math.nan))
    assert found.startswith("With so few photographs, it cannot be told whether it is under-fitted; with so few ")
    assert found.endswith(" it cannot be told whether it memorizes.")


def test_a_floor_of_zero_is_drawn_below_the_axis() -> None:
    shown = rows([0] * 4, [0] * 4)
    shown[0]["floor"] = 0.0
    above, below = floor(shown).figure.axes
    assert above.get_yscale() == "log"
    assert above.get_ylim()[0] > 0
    assert len(below.containers) == 1
