"""The list of runs: each with its state, even if the run could not write it."""

import json
import os
import platform
import time
from datetime import datetime
from pathlib import Path

import pytest

from diffusion import status
from diffusion.report.lines import seconds_left
from diffusion.runs.record import SILENCE, RunRecord, start_of_process

GONE = 2**22 - 1  # no process has this id


def record(folder: Path, **info: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(info))
    return folder


HERE = {"state": "running", "host": platform.node(), "pid": os.getpid(), "process": start_of_process(os.getpid())}


@pytest.mark.parametrize(
    ("info", "silence", "expected"),
    [
        ({"state": "complete"}, 9e9, "complete"),
        ({"state": "failed", "reason": "x"}, 0, "failed"),
        ({"state": "interrupted"}, 0, "interrupted"),
        (HERE, 0, "running"),
        (HERE, 10 * SILENCE, "running"),  # the machine was asleep
        (HERE | {"pid": GONE}, 0, "died"),
        ({"state": "running", "host": platform.node(), "pid": GONE}, 0, "died"),
        (HERE | {"process": "0"}, 0, "died"),  # the process id now belongs to another process
        (HERE | {"host": "elsewhere"}, 0, "running"),
        (HERE | {"host": "elsewhere"}, SILENCE + 60, "died"),
        ({"state": "running"}, 2 * SILENCE, "died"),  # from a version that did not record the process
    ],
)
def test_the_state_of_a_run_is_detected_even_if_its_process_died(tmp_path, info, silence, expected):
    folder = record(tmp_path / "run", **info)
    then = max(0, time.time() - silence)
    os.utime(folder / "run.json", (then, then))
    assert RunRecord(folder).state == expected


@pytest.mark.parametrize(("value", "text"), [(12.5, "12.5"), (0.0, "0"), (None, "nan")])
def test_the_listed_score_is_the_latest_sample_score_of_the_first_metric(tmp_path, value, text):
    records = [
        {"metric": "fd", "value": 3.0, "what": "samples"},
        {"metric": "kid", "value": 2.0, "what": "samples"},
        {"metric": "fd", "value": value, "what": "samples"},
        {"metric": "coverage", "value": 0.0, "what": "samples"},
        {"metric": "fd", "value": 9.0, "what": "noise"},
        {"metric": "copies", "value": 0.0, "what": "samples"},
    ]
    (tmp_path / "scores.json").write_text(json.dumps(records))
    line = status.line(tmp_path, tmp_path.parent)
    assert (line.metric, line.value, line.score) == ("fd", value, text)


def test_a_score_of_a_step_before_the_last_is_listed_with_its_step(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps([{"metric": "fd", "value": 3.0, "what": "samples", "step": 1200}]))
    for steps, text in ((1200, "3"), (1500, "3 (step 1,200)")):
        (tmp_path / "run.json").write_text(json.dumps({"state": "complete", "steps": steps}))
        assert status.line(tmp_path, tmp_path.parent).score == text


def test_the_remaining_time_uses_the_rate_since_resuming(tmp_path):
    content = {"steps": 300, "first_step": 200, "total_steps": 450, "started": "2026-01-02T03:00:00+00:00"}
    now = datetime.fromisoformat("2026-01-02T03:01:00+00:00").timestamp()
    assert seconds_left(content, now) == 90
    for unknown in ({"steps": None}, {"steps": 200}, {"started": "?"}, {"total_steps": None}):
        assert seconds_left(content | unknown, now) is None
    for state, left in {"running": True, "complete": False}.items():
        folder = record(tmp_path / state, **(HERE | content | {"state": state}))
        assert (status.line(folder, tmp_path).seconds_left is not None) == left


def test_runs_can_be_sorted_filtered_and_listed_as_json(tmp_path, capsys):
    for i, (state, metric, value) in enumerate(
        [("complete", "fd", 9.0), ("failed", "coverage", 0.1), ("complete", "fd", 7.0), ("complete", "coverage", 0.9)]
    ):
        folder = record(tmp_path / f"r{i}", state=state, steps=10 * (i % 3))
        (folder / "scores.json").write_text(json.dumps([{"metric": metric, "value": value, "what": "samples"}]))
        os.utime(folder / "run.json", (1000 + i, 1000 + i))

    def listed(*words: str) -> str:
        assert status.main([str(tmp_path), "--json", *words]) == 0
        return "".join(each["run"][1:] for each in json.loads(capsys.readouterr().out))

    orders = {"run": "0123", "state": "0231", "step": "2103", "score": "3120", "wrote": "3210", "left": "0123"}
    assert {order: listed("--sort", order) for order in status.ORDERS} == orders
    assert listed("--state", "failed") == "1"
    assert listed("--state", "failed,complete") == "0123"
    assert status.main([str(tmp_path), "--state", "failed"]) == 0
    out = capsys.readouterr().out
    assert "r1 " in out
    assert "r0 " not in out
    assert status.main([str(tmp_path), "--state", "fail"]) == 2
    assert capsys.readouterr().err.startswith("error: --state fail: unknown state (did you mean failed?); ")


def test_runs_and_their_last_scores_are_listed_at_any_depth(command, tiny, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(status.console, "_width", 200)
    for name, more in {"a": ["samples.n=0"], "b": ["samples.n=0", "score.n=8", "features=lite0"]}.items():
        command("train", [*tiny, *more, "trainer.max_steps=2", f"hydra.run.dir=outputs/x/{name}"])
    record(tmp_path / "outputs/sweep/0", **(HERE | {"pid": GONE}))
    (tmp_path / "outputs/broken").mkdir()
    (tmp_path / "outputs/broken/run.json").write_text("{")
    checkpoint = tmp_path / "outputs/x/a/checkpoints/last.ckpt"
    command("sample", [f"ckpt={checkpoint}", "n=1", "sampler.steps=2"])
    capfd.readouterr()
    assert status.main([]) == 0
    out = capfd.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if len(line.split()) > 1}
    assert "4 runs below outputs: 2 complete, 1 died, 1 unreadable" in out
    assert "not listed: 1 × diffusion.sample" in out
    assert "hydra.run.dir=outputs/RUN ckpt=auto" in out
    assert "samples/" not in out
    assert "complete" in lines["x/a"]
    assert "2 of 2" in lines["x/a"]
    assert "val/mse 1." in lines["x/a"]
    assert "lite0" in lines["x/b"]
    assert "died" in lines["sweep/0"]
    assert "unreadable" in lines["broken"]
    info = json.loads((tmp_path / "outputs/x/a/run.json").read_text())
    assert (info["pid"], info["host"]) == (os.getpid(), platform.node())


def test_a_missing_folder_is_refused(tmp_path, capsys):
    assert status.main([str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
