from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from diffusion.metric.record import Score
from diffusion.report import annotations
from diffusion.study.guidance_report import advised, lines_of, measured_pair, trade, write
from diffusion.study.samplers_report import Point, interval_text

PAIR = ("precision_lite0", "recall_lite0")


def score(metric: str, value: float, half: float | None = 2.0, what: str = "samples") -> Score:
    low, high = (None, None) if half is None else (value - half, value + half)
    return Score(metric, value, 8, what, low=low, high=high)


def point(
    sampler: str, scale: float, fd: float, limited: bool = False, precision: float = 0.5, recall: float = 0.5
) -> Point:
    of_pair = (score(PAIR[0], precision, 0.1), score(PAIR[1], recall, None))
    scores = {"fd_lite0": score("fd_lite0", fd), **dict(zip(PAIR, of_pair, strict=True))}
    ends = (0.19, 1.61) if limited else (None, None)
    return Point(sampler, 5, 5 if scale == 1 else 10, 0.5, scores, scale, *ends)


POINTS = [
    point("ddim", 1, 50.0, precision=0.3, recall=0.7), point("ddim", 1.5, 42.0, precision=0.4, recall=0.6),
    point("ddim", 2, 41.0, precision=0.5, recall=0.5), point("ddim", 1.5, 44.9, True, 0.35, 0.65),
    point("ddim", 2, 45.1, True, 0.4, 0.6), point("heun", 1, 60.0, precision=0.2, recall=0.6),
    point("heun", 2, 30.0, precision=0.45, recall=0.4), point("heun", 0.5, 90.0, precision=0.1, recall=0.8),
]  # fmt: skip


def test_advice_names_each_samplers_best_and_those_not_shown_to_be_worse() -> None:
    ddim, heun = advised(POINTS, "fd_lite0")
    assert (ddim.best.guidance, [p.guidance for p in ddim.alike]) == ("2", ["1.5"])
    assert (heun.best.guidance, heun.alike, heun.largest) == ("2", [], True)
    assert ddim.unguided == POINTS[0]
    assert not any(a.largest for a in advised([*POINTS, point("ddim", 3, 80.0)], "fd_lite0"))
    (still,) = advised([point("ddim", 0.5, 80.0), point("ddim", 1, 50.0)], "fd_lite0")
    assert (still.best.guidance, still.largest) == ("1", False)
    same = [point("ddim", 2, 50.0), point("ddim", 1, 50.0)]
    assert advised(same, "fd_lite0")[0].best.scale == 1  # the cheaper one
    (best,) = advised(POINTS[:3], PAIR[1])
    assert best.best.scale == 1  # has the highest recall


def test_a_metric_without_a_direction_gives_no_advice() -> None:
    points = [Point("ddim", 5, 5, 1.0, {"density": score("density", 1.0)})]
    assert advised(points, "density") == []


def test_the_fidelity_and_diversity_pair_uses_metrics_of_one_kind() -> None:
    both = ["fd_lite0", "density_lite0", "coverage_lite0", *PAIR]
    assert measured_pair(both) == PAIR
    assert measured_pair([*both[:3], PAIR[0]]) == ("density_lite0", "coverage_lite0")
    assert measured_pair(["fd_lite0", PAIR[0], "coverage_lite0"]) is None


def test_the_line_of_each_sampler_and_interval_includes_the_unguided_point() -> None:
    assert {name: [p.scale for p in line] for name, line in lines_of(POINTS).items()} == {
        "ddim": [1, 1.5, 2], "ddim, (0.19, 1.61]": [1, 1.5, 2], "heun": [0.5, 1, 2],
    }  # fmt: skip
    assert [*lines_of(POINTS[:1])] == ["ddim"]


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((None, None), "everywhere"),
        ((0.19, None), "above 0.19"),
        ((None, 1.61), "(0, 1.61]"),
        ((0.19, 1.61), "(0.19, 1.61]"),
    ],
)
def test_intervals_are_formatted_as_text(ends: tuple[float | None, float | None], text: str) -> None:
    assert interval_text(*ends) == text


def test_a_study_writes_a_table_a_csv_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    floor = [score("fd_lite0", 20.0, 1.0, "floor"), score(PAIR[0], 0.9, 0.1, "floor")]
    paths = write(POINTS, "ClassifierFree", tmp_path, "val", "cpu", [*floor, replace(floor[0], what="real", value=9.0)])
    assert all(path.is_file() for path in paths)
    text = (tmp_path / "guidance.md").read_text()
    assert "# ClassifierFree against val" in text
    assert "| ddim | 2 | 10 | 41.0 [39.0, 43.0] | 50.0 [48.0, 52.0] | 1.5 |" in text
    assert "| heun | 2 | 10 | 30.0 [28.0, 32.0] | 60.0 [58.0, 62.0] | — |" in text
    assert "| ddim | — | 1 | 5 | 5 | 0.5 | 50.0 [48.0, 52.0] |" in text
    assert "| ddim | (0.19, 1.61] | 1.5 | 5 | 10 | 0.5 | 44.9 [42.9, 46.9] |" in text
    assert text.index("| heun | everywhere | 0.5") < text.index("| floor | — | — | — | — | — | 20.0 [19.0, 21.0] |")
    assert "With heun the best scale is the largest that was tried: try larger ones." in text
    lines = (tmp_path / "guidance.csv").read_text().splitlines()
    assert lines[0].startswith("sampler,low,high,scale,steps,nfe,seconds_per_image,fd_lite0,")
    assert lines[4] == "ddim,0.19,1.61,1.5,5,10,0.5,44.9,0.35,0.65"
    assert lines[-2:] == ["floor,,,,,,,20.0,0.9,", "real,,,,,,,9.0,,"]
    assert "fd_lite0 20.0 [19.0, 21.0]\n" in capsys.readouterr().out


def test_the_picture_shows_scores_by_scale_and_the_trade_off() -> None:
    floor = {
        "fd_lite0": score("fd_lite0", 20.0, 1.0, "floor"),
        PAIR[0]: score(PAIR[0], 0.8),
        PAIR[1]: score(PAIR[1], 0.9),
    }
    left, right = trade(POINTS, "fd_lite0", PAIR, floor).axes
    (line,) = [line for line in left.get_lines() if line.get_label() == "floor"]
    assert set(line.get_ydata()) == {20.0}
    (rings,) = [line for line in left.get_lines() if line.get_label() == "best"]
    assert [*zip(rings.get_xdata(), rings.get_ydata(), strict=True)] == [(2, 41.0), (2, 30.0)]
    assert [*left.get_xticks()] == [0.5, 1, 1.5, 2]
    (star,) = [line for line in right.get_lines() if line.get_marker() == "*"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (0.9, 0.8)
    curves = [line for line in right.get_lines() if line.get_linestyle() == "-"]
    assert [[*line.get_xdata()] for line in curves] == [[0.7, 0.6, 0.5], [0.7, 0.65, 0.6], [0.8, 0.6, 0.4]]
    assert [*curves[0].get_ydata()] == [0.3, 0.4, 0.5]
    texts = [text.get_text() for text in right.texts]
    assert sorted(texts) == ["0.5", "1", "1", "1.5", "1.5", "2", "2", "2", "floor"]
    (alone,) = trade(POINTS, "fd_lite0", None, {}).axes
    assert alone.get_xlabel().startswith("scale")


def test_a_distant_floor_does_not_compress_the_plot() -> None:
    floor = {PAIR[0]: score(PAIR[0], 30.0), PAIR[1]: score(PAIR[1], 0.9)}
    _, right = trade(POINTS, "fd_lite0", PAIR, floor).axes
    assert right.get_title("right") == "floor: recall_lite0 0.9, precision_lite0 30"
    assert right.get_ylim()[1] < 1


def test_labels_cover_neither_points_nor_each_other() -> None:
    figure = Figure(layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1])
    crowd = [annotations.Label(0.5 + i / 200, 0.5 + (i % 3) / 200, f"{i}.25", "black") for i in range(30)]
    written = annotations.place(figure, ax, [annotations.Label(1, 1, "corner", "black"), *crowd])
    boxes = [text.get_window_extent() for text in written]
    assert written[0].get_text() == "corner"
    assert 5 < len(written) < 31
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    centres = ax.transData.transform([(label.x, label.y) for label in crowd])
    assert not any(box.contains(*centre) for box in boxes for centre in centres)
    assert all(ax.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))
    assert {text.get_text() for text in ax.texts} == {text.get_text() for text in written}
