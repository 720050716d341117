from dataclasses import replace
from pathlib import Path

from diffusion.metric.record import Score
from diffusion.study.samplers_report import Point, front, pareto, recommended, write


def score(metric: str, value: float, half: float | None = None, what: str = "samples") -> Score:
    low, high = (None, None) if half is None else (value - half, value + half)
    return Score(metric, value, 8, what, low=low, high=high)


def point(sampler: str, nfe: int, value: float, half: float = 1.0, seconds: float | None = None) -> Point:
    scores = {"fd_lite0": score("fd_lite0", value, half)}
    return Point(sampler, nfe, nfe, nfe / 10 if seconds is None else seconds, scores)


POINTS = [
    point("ddim", 10, 50.0), point("ddim", 20, 30.0), point("heun", 9, 60.0), point("heun", 19, 29.0),
    point("unipc", 20, 10.0, seconds=9.0),
]  # fmt: skip


def test_recommended_are_each_budgets_best_and_those_not_shown_to_be_worse() -> None:
    found = recommended(POINTS, [5, 10, 19, 20], "fd_lite0")
    assert {budget: (p.sampler, p.nfe, alike) for budget, (p, alike) in found.items()} == {
        10: ("ddim", 10, []), 19: ("heun", 19, []), 20: ("unipc", 20, []),
    }  # fmt: skip
    assert recommended(POINTS[:4], [20], "fd_lite0")[20] == (POINTS[3], ["ddim (20)"])


def test_the_pareto_front_is_computed_by_evaluations_or_seconds() -> None:
    assert [(p.sampler, p.nfe) for p in front(POINTS, "fd_lite0", "nfe")] == [
        ("heun", 9), ("ddim", 10), ("heun", 19), ("unipc", 20),
    ]  # fmt: skip
    assert [p.sampler for p in front(POINTS, "fd_lite0", "seconds")] == ["heun", "ddim", "heun", "unipc"]
    slow = [point("a", 10, 5.0, seconds=9.0), point("b", 20, 6.0, seconds=1.0)]
    assert [p.sampler for p in front(slow, "fd_lite0", "nfe")] == ["a"]
    assert [p.sampler for p in front(slow, "fd_lite0", "seconds")] == ["b", "a"]


def test_a_metric_without_a_direction_gives_no_recommendation(tmp_path: Path) -> None:
    def of(density: float, coverage: float) -> dict[str, Score]:
        return {"density": score("density", density), "coverage": score("coverage", coverage)}

    points = [Point("ddim", 10, 10, 1.0, of(0.5, 0.2)), Point("heun", 5, 9, 1.0, of(2.5, 0.9))]
    write(points, [10], tmp_path, "val", "cpu")
    assert "| 10 | heun | 5 | 1 | 0.9 |" in (tmp_path / "study.md").read_text()
    assert recommended(points, [10], "density") == {}
    assert front(points, "density", "nfe") == []


def test_a_study_writes_a_table_a_csv_and_a_plot(tmp_path: Path) -> None:
    paths = write(POINTS, [10, 20], tmp_path, "val", "cpu")
    assert all(path.is_file() for path in paths)
    assert "| 20 | unipc | 20 |" in (tmp_path / "study.md").read_text()
    assert (tmp_path / "study.csv").read_text().splitlines()[1] == "ddim,10,10,1.0,50.0"
    assert "floor" not in (tmp_path / "study.md").read_text()
    assert [ax.get_xlabel() for ax in pareto(POINTS, "fd_lite0").axes] == ["network evaluations", "seconds per image"]


def test_the_floor_is_a_row_below_the_samplers_and_a_line_in_the_plot(tmp_path: Path) -> None:
    floor = score("fd_lite0", 4.0, 1.0, "floor")
    write(POINTS, [10, 20], tmp_path, "val", "cpu", [floor, replace(floor, what="real", value=9.0)])
    text = (tmp_path / "study.md").read_text()
    assert (
        text.index("| unipc | 20 |") < text.index("| floor | — | — | — | 4.0 [3.0, 5.0] |") < text.index("| real | — |")
    )
    assert (tmp_path / "study.csv").read_text().splitlines()[-2:] == ["floor,,,,4.0", "real,,,,9.0"]
    for ax in pareto(POINTS, "fd_lite0", floor).axes:
        (line,) = [line for line in ax.get_lines() if line.get_label() == "floor"]
        assert set(line.get_ydata()) == {4.0}


def test_every_sampler_has_a_unique_colour_and_marker() -> None:
    points = [point(f"sampler {i}", nfe, 1.0) for i in range(20) for nfe in (10, 20)]
    (ax, _) = pareto(points, "fd_lite0").axes
    drawn = {(line.get_color(), line.get_marker()) for line in ax.get_lines() if line.get_marker() in "os^DvPX"}
    assert len(drawn) == 20


def test_a_score_without_an_interval_has_no_error_bar() -> None:
    bare = [Point("ddim", nfe, nfe, 1.0, {"fd_lite0": score("fd_lite0", 50.0)}) for nfe in (10, 20)]
    for ax in pareto(bare, "fd_lite0").axes:
        (bars,) = ax.containers
        assert {low == high for low, high in (segment[:, 1] for segment in bars.lines[2][0].get_segments())} == {True}
