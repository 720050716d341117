"""The list of runs: each with its state, even if the run could not write it."""

import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from diffusion import status
from diffusion.report.lines import seconds_left


def record(folder: Path, **info: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize(("value", "text"), [(12.5, "12.5"), (0.0, "0")])
def test_the_listed_score_is_the_latest_sample_score_of_the_first_metric(tmp_path, value, text):
    records = [
        {"metric": "fd", "value": 3.0, "what": "samples"},
        {"metric": "kid", "value": 2.0, "what": "samples"},
        {"metric": "fd", "value": value, "what": "samples"},
        {"metric": "fd", "value": 9.0, "what": "noise"},
        {"metric": "copies", "value": 0.0, "what": "samples"},
    ]
    (tmp_path / "scores.json").write_text(json.dumps(records))
    line = status.line(tmp_path, tmp_path.parent)
    assert (line.metric, line.value, line.score) == ("fd", value, text)


def test_the_remaining_time_uses_the_rate_since_resuming():
    content = {"steps": 300, "first_step": 200, "total_steps": 450, "started": "2026-01-02T03:00:00+00:00"}
    now = datetime.fromisoformat("2026-01-02T03:01:00+00:00").timestamp()
    assert seconds_left(content, now) == 90
    for unknown in ({"steps": None}, {"steps": 200}, {"started": "?"}, {"total_steps": None}):
        assert seconds_left(content | unknown, now) is None


def test_runs_are_listed_at_any_depth_sorted_and_as_json(tmp_path, capsys):
    made = [
        ("complete", "fd", 9.0),
        ("failed", "coverage", 0.1),
        ("complete", "fd", 7.0),
        ("complete", "coverage", 0.9),
    ]
    for i, (state, metric, value) in enumerate(made):
        folder = record(tmp_path / ("deep" if i % 2 else ".") / f"r{i}", state=state, steps=10 * (i % 3), reason="[x]")
        (folder / "scores.json").write_text(json.dumps([{"metric": metric, "value": value, "what": "samples"}]))
        os.utime(folder / "run.json", (1000 + i, 1000 + i))
    (record(tmp_path / "broken") / "run.json").write_text("{")

    def listed(*words: str) -> str:
        assert status.main([str(tmp_path), "--json", *words]) == 0
        found = {each["run"][-1:]: each["state"] for each in json.loads(capsys.readouterr().out)}
        assert found == {"0": "complete", "1": "failed", "2": "complete", "3": "complete", "n": "unreadable"}
        return "".join(found).replace("n", "").replace("0", "")

    orders = {"state": "321", "score": "312", "wrote": "321"}
    assert {order: listed("--sort", order) for order in orders} == orders
    assert status.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "5 runs" in out
    assert "[x]" in out
    assert status.main(["nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
