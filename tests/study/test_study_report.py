"""The report of a study: its table, with the best scores in bold, its charts and its files, from its scores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffusion.findings.tradeoff import rows_of
from diffusion.metric.record import Reference, Score
from diffusion.report.run import write_report
from diffusion.report.study import chart, table_of
from diffusion.report.style import LOOKS
from diffusion.runs.folder import Run, append_scores


def scores(words: str, nfe: int, fd: float, density: float = 1.0, n: int = 16, code: str = "1", **source: Any) -> Any:
    sampler = {"name": words, "steps": nfe}
    made = {"sampler": sampler, "nfe": nfe, "seconds_per_image": 0.1, "words": words, "device": "cpu", "seed": 0}
    how: Any = {"reference": Reference("val", 250), "source": made | source, "code": code}
    return [Score("fd_lite0", fd, n, low=fd - 1, high=fd + 2, **how), Score("density_lite0", density, n, **how)]


def guided(words: str, scale: float, fd: float, low: float | None = None, high: float | None = None) -> Any:
    guidance = {"name": "CFG", "scale": scale, "low": low, "high": high}
    return scores(words, 5 if scale == 1 else 10, fd, guidance=guidance)


SAMPLERS = [
    scores("ddim", 10, 50.0), scores("ddim", 20, 30.0), scores("heun", 9, 60.0), scores("heun", 19, 30.0),
    scores("unipc", 20, 40.0),
]  # fmt: skip
SCALES = [
    guided("ddim", 1, 50.0), guided("ddim", 2, 41.0), guided("ddim", 1.5, 42.0), guided("ddim", 2, 45.0, 0.19, 1.61),
    guided("heun", 1, 60.0), guided("heun", 2, 30.0),
]  # fmt: skip
BASELINES = [
    Score("fd_lite0", value, 16, what, low=3, high=5) for what, value in {"split_half": 4.0, "real": 9.0}.items()
]


@pytest.mark.parametrize(
    ("settings", "best", "row"),
    [
        (SAMPLERS, ["50.0", "30.0"], "| unipc | 20 | 20 | 0.1 | 40.0 [39.0, 42.0] | 1 |"),
        (SCALES, ["50.0", "30.0"], "| ddim | 2 | 0.19 | 1.61 | 10 | 10 | 0.1 | 45.0 [44.0, 47.0] | 1 |"),
    ],
)
def test_a_study_writes_its_table_and_charts_with_its_baselines(
    settings: Any, best: Any, row: str, tmp_path: Path
) -> None:
    for each in [*settings, BASELINES]:
        append_scores(tmp_path, each)
    assert {path.name for path in write_report(tmp_path)} == {
        "study.md", "study.csv", "report.html", "fd_lite0.png", "density_lite0.png",
    }  # fmt: skip
    text = (tmp_path / "study.md").read_text()
    assert text.index(row) < text.index("| split_half | —") < text.index("| real | —")
    assert (tmp_path / "study.csv").read_text().splitlines()[-1].startswith("real,")
    rows = rows_of(Run(tmp_path))
    bold = [cell.text.partition(" ")[0] for cells in table_of(rows).cells for cell in cells if cell.bold]
    assert (
        bold == best
    )  # heun's 30.0 costs less than that of ddim; no density is better than another, and 60.0 is the worst
    (drawn,) = [line for line in chart(rows, "fd_lite0").figure.axes[0].get_lines() if line.get_label() == "split half"]
    assert set(drawn.get_ydata()) == {4.0}


def test_settings_are_compared_by_the_samples_alone_and_baselines_with_the_error_of_the_photographs(
    tmp_path: Path,
) -> None:
    """All settings have the same reference, so other photographs would change all of their scores alike."""
    errors: Any = {"error": 20.0, "samples_error": 1.0, "level": 0.95, "low": 10.0, "high": 90.0}
    (fd, _), (real, *_) = SAMPLERS[0], BASELINES
    append_scores(tmp_path, [replace(score, **errors) for score in (fd, real)])
    texts = [cells[-1].text for cells in table_of(rows_of(Run(tmp_path))).cells]
    assert texts == ["50.0 [48.0, 52.0]", "4 [10, 90]"]


def test_every_line_of_a_chart_begins_without_guidance(tmp_path: Path) -> None:
    for each in SCALES:
        append_scores(tmp_path, each)
    bars = chart(rows_of(Run(tmp_path)), "fd_lite0").figure.axes[0].containers
    lines = {each.get_label(): each.lines[0].get_xydata().tolist() for each in bars}
    assert lines == {
        "ddim": [[1, 50], [1.5, 42], [2, 41]], "ddim in (0.19, 1.61]": [[1, 50], [2, 45]], "heun": [[1, 60], [2, 30]],
    }  # fmt: skip
    _, caps, _ = bars[0].lines
    assert [cap.get_ydata()[0] for cap in caps] == [49, 52]
    assert len({(look["color"], look["marker"]) for look in LOOKS}) == len(LOOKS)


@pytest.mark.parametrize("earlier", [{"n": 64}, {"network_hash": "b"}])
def test_a_report_is_made_of_the_latest_study_in_a_folder(earlier: dict[str, Any], tmp_path: Path) -> None:
    append_scores(tmp_path, scores("ddim", 5, 4.0, **earlier))
    for steps in (10, 20):
        append_scores(tmp_path, scores("ddim", steps, 20.0 / steps))
    assert [row["fd_lite0"].value for row in rows_of(Run(tmp_path))] == [2.0, 1.0]
