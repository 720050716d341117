"""The reports of studies: advice, fronts, tables and charts, from the study itself or from its scores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffusion.metric.record import Reference, Score
from diffusion.report.run import write_report
from diffusion.report.study import (
    Point,
    Study,
    advice,
    against,
    by_cost,
    charts,
    lines_of,
    study_of,
    write,
)
from diffusion.report.style import LOOKS
from diffusion.runs.folder import Run, append_scores

PAIR = ("precision_lite0", "recall_lite0")


def score(metric: str, value: float, half: float | None = 2.0, what: str = "samples") -> Score:
    low, high = (None, None) if half is None else (value - half, value + half)
    return Score(metric, value, 8, what, low=low, high=high)


def sampled(sampler: str, nfe: int, value: float, seconds: float | None = None) -> Point:
    scores = {"fd_lite0": score("fd_lite0", value, 1.0)}
    return Point(sampler, nfe, nfe, nfe / 10 if seconds is None else seconds, scores)


def guided(
    name: str, scale: float, fd: float, ends: Any = (None, None), pair: tuple[float, float] = (0.5, 0.5)
) -> Point:
    of_pair = (score(PAIR[0], pair[0], 0.1), score(PAIR[1], pair[1], None))
    scores = {"fd_lite0": score("fd_lite0", fd), **dict(zip(PAIR, of_pair, strict=True))}
    return Point(name, 5, 5 if scale == 1 else 10, 0.5, scores, scale, *ends)


SAMPLERS = [
    sampled("ddim", 10, 50.0), sampled("ddim", 20, 30.0), sampled("heun", 9, 60.0), sampled("heun", 19, 29.0),
    sampled("unipc", 20, 10.0, seconds=9.0),
]  # fmt: skip
INSIDE = (0.19, 1.61)
SCALES = [
    guided("ddim", 1, 50.0, pair=(0.3, 0.7)), guided("ddim", 1.5, 42.0), guided("ddim", 2, 41.0),
    guided("ddim", 1.5, 44.9, INSIDE), guided("ddim", 2, 45.1, INSIDE), guided("heun", 1, 60.0),
    guided("heun", 2, 30.0), guided("heun", 0.5, 90.0),
]  # fmt: skip


def rows(points: list[Point], guidance: str | None = None) -> list[list[Any]]:
    return [*advice(Study(points, [], guidance, "val")).rows]


def test_the_advice_names_the_best() -> None:
    assert [row[:3] for row in rows(SAMPLERS)] == [
        ["9", "heun", "9"], ["10", "ddim", "10"], ["19", "heun", "19"], ["20", "unipc", "20"],
    ]  # fmt: skip
    ddim, heun = rows(SCALES, "CFG")
    assert [ddim[1], ddim[5]] == ["ddim, scale 2", "41.0 [39.0, 43.0]"]
    assert heun[1] == "heun, scale 2"
    assert rows([guided("ddim", 2, 50.0), guided("ddim", 1, 50.0)], "CFG")[0][1] == "ddim"  # the cheaper one


def test_a_metric_without_a_direction_gives_no_advice() -> None:
    points = [Point("ddim", 5, 5, 1.0, {"density": score("density", 1.0)})]
    assert rows(points) == []


def test_lines_intervals_and_pairs() -> None:
    assert {name: [p.scale for p in line] for name, line in lines_of(SCALES).items()} == {
        "ddim": [1, 1.5, 2], "ddim in (0.19, 1.61]": [1, 1.5, 2], "heun": [0.5, 1, 2],
    }  # fmt: skip
    ends = [(None, None), (0.19, None), (None, 1.61), (0.19, 1.61)]
    lines = [guided("ddim", 2, 50.0, each).line for each in ends]
    assert lines == ["ddim", "ddim above 0.19", "ddim in (0, 1.61]", "ddim in (0.19, 1.61]"]
    assert [chart.file for chart in charts(Study(SCALES, [], "CFG", "val"))] == [
        "guidance.png", None, None, "fidelity.png",
    ]  # fmt: skip
    assert len({(look["color"], look["marker"]) for look in LOOKS}) == len(LOOKS) == 49


@pytest.mark.parametrize(
    ("points", "guidance", "name", "line"),
    [
        (SAMPLERS, None, "study", "| unipc | 20 | 20 | 9 | 10.0 [9.0, 11.0] |"),
        (SCALES, "CFG", "guidance", "| ddim | 0.19 | 1.61 | 1.5 | 5 | 10 | 0.5 |"),
    ],
)
def test_a_study_writes_its_tables_and_charts_with_the_floor(
    points: list[Point], guidance: str | None, name: str, line: str, tmp_path: Path, capsys: Any
) -> None:
    floor = score("fd_lite0", 4.0, 1.0, "floor")
    study = Study(points, [floor, replace(floor, what="real", value=9.0)], guidance, "val", "cpu")
    write(study, tmp_path)
    assert {f"{name}.md", f"{name}.csv", f"{name}.png", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    text = next(tmp_path.glob("*.md")).read_text()
    assert line in text
    assert text.index(line) < text.index("| floor | —") < text.index("| real images | —")
    assert next(tmp_path.glob("*.csv")).read_text().splitlines()[-1].startswith("real,")
    assert "fd_lite0 4.0 [3.0, 5.0]\n" in capsys.readouterr().out
    (drawn,) = [line for line in by_cost(study, "fd_lite0").axes[0].get_lines() if line.get_label() == "floor"]
    assert set(drawn.get_ydata()) == {4.0}
    if guidance:
        assert [text.get_text() for text in against(study, *PAIR).axes[0].texts].count("1.5") == 2


def measured(steps: int, n: int = 16, code: str = "1", **source: Any) -> list[Score]:
    drawn: dict[str, Any] = {
        "sampler": {"name": "DDIM", "steps": steps},
        "nfe": steps,
        "seconds_per_image": 0.1,
        "words": "ddim",
    }
    drawn |= {"seed": 0} | source
    floor = Score("fd_lite0", 0.1 * n, n, what="floor")
    return [floor, Score("fd_lite0", 20.0 / steps, n, reference=Reference("val", 250), source=drawn, code=code)]


@pytest.mark.parametrize("earlier", [{"n": 64}, {"network_hash": "b"}, {"seed": 1}, {"code": "2"}])
def test_a_report_is_made_of_the_latest_study_in_a_folder(earlier: dict[str, Any], tmp_path: Path) -> None:
    append_scores(tmp_path, measured(5, **earlier))
    for steps in (10, 20):
        append_scores(tmp_path, measured(steps))
    study = study_of(Run(tmp_path))
    assert [(p.steps, p.scores["fd_lite0"].value) for p in study.points] == [(10, 2.0), (20, 1.0)]
    assert [score.value for score in study.baselines] == [1.6]
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg ") == 1
