"""The list of runs: each with its state, even if the run could not write it."""

import errno
import json
import os
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffusion.base.console import Bar
from diffusion.base.files import lock
from diffusion.cli import prune, status
from diffusion.cli.report import main as report
from diffusion.errors import exit_status
from diffusion.report.compare import compare
from diffusion.report.index import lines_below
from diffusion.runs.folder import jobs_of, runs_below
from diffusion.runs.record import RunRecord
from diffusion.training.callbacks import Progress


def record(folder: Path, **info: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize(("value", "text"), [(12.5, "fd_x 12.5"), (0.0, "fd_x 0")])
def test_the_listed_score_is_the_latest_sample_score_of_the_first_distance(tmp_path, value, text):
    records = [
        {"metric": "density", "value": 0.5, "what": "samples"},
        {"metric": "fd_x", "value": 3.0, "what": "samples"},
        {"metric": "kid", "value": 2.0, "what": "samples"},
        {"metric": "fd_x", "value": value, "what": "samples"},
        {"metric": "fd_x", "value": 9.0, "what": "noise"},
        {"metric": "copies", "value": 0.0, "what": "samples"},
    ]
    (tmp_path / "scores.json").write_text(json.dumps(records))
    (line,) = lines_below(tmp_path)
    assert line.cells[2].text == text


def test_the_time_left_is_that_of_the_progress_bar_which_knows_none_before_two_steps(tmp_path):
    now = 1e6
    bar = Bar(get_time=lambda: now, disable=True)
    clock = SimpleNamespace(epoch_after=lambda step: 0)
    progress = Progress(SimpleNamespace(clock=clock), RunRecord(tmp_path / "r"))
    (tmp_path / "r").mkdir()
    progress.record.start(["train"])
    progress.record.update(total_steps=500, started="2026-01-02T03:00:00+00:00")  # its set-up took years
    progress.bar, progress.task = bar, bar.add_task("training", total=500, unit="step", note="")
    found = []
    with lock(tmp_path / "r/.lock"):
        for step in (1, 2, 3):
            now += 2
            bar.update(progress.task, completed=step)
            progress.note(step)
            found += [line.cells[4] and line.cells[4].text for line in lines_below(tmp_path)]
    assert found == [None, "16 min 36 s", "16 min 34 s"]


def test_a_run_whose_last_samples_are_scored_is_not_about_to_end(tmp_path):
    folder = record(tmp_path / "r", state="running", steps=9, total_steps=9, left=0.0)
    with lock(folder / ".lock"):
        (line,) = lines_below(tmp_path)
    assert line.cells[4].text == "last samples and scores"


def test_runs_are_listed_at_any_depth_and_sorted(tmp_path, capsys):
    made = [
        ("complete", "fd", 9.0),
        ("failed", "coverage", 0.1),
        ("complete", "fd", 7.0),
        ("complete", "coverage", 0.9),
    ]
    for i, (state, metric, value) in enumerate(made):
        folder = record(tmp_path / ("deep" if i % 2 else ".") / f"r{i}", state=state, steps=10 * (i % 3), reason="[x]")
        (folder / "scores.json").write_text(json.dumps([{"metric": metric, "value": value, "what": "samples"}]))

    assert status.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert [row[0][-2:] for row in rows if row[1:2] in (["complete"], ["failed"])] == ["r1", "r3", "r0", "r2"]
    assert "4 runs" in out
    assert "[x]" in out
    assert status.main(["nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_list_as_json_has_plain_values(tmp_path, capsys):
    assert status.main([str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    done = record(tmp_path / "done", state="complete", steps=9000, total_steps=9000)
    (done / "scores.json").write_text(json.dumps([{"metric": "fd", "value": 9.5, "low": 8.0, "high": 11.0}]))
    early = record(tmp_path / "early", state="failed", reason="error: no", steps=3)
    (early / "scores.json").write_text('[{"metric": "fd", "value": NaN, "low": -Infinity}]')
    going = record(tmp_path / "going", state="running", steps=9, total_steps=10, left=12.5)
    (record(tmp_path / "torn") / "run.json").write_text("[]")
    os.utime(done / "run.json", (1e9, 1e9))
    with lock(going / ".lock"):
        assert status.main([str(tmp_path), "--json"]) == 0
    first, second, third, last = found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert datetime.fromisoformat(first.pop("written")).timestamp() == 1e9
    assert [Path(each["run"]) for each in found] == [done, early, going, tmp_path / "torn"]
    assert {**first, "run": ""} == {
        "run": "", "state": "complete", "reason": None, "step": 9000, "total_steps": 9000, "seconds_left": None,
        "score": {"name": "fd", "value": 9.5, "low": 8.0, "high": 11.0},
    }  # fmt: skip
    assert (second["reason"], second["total_steps"]) == ("error: no", None)
    assert second["score"] == {"name": "fd", "value": None, "low": None, "high": None}
    assert (third["state"], third["seconds_left"], third["score"]) == ("running", 12.5, None)
    assert (last["state"], last["step"], "not readable" in last["reason"]) == ("damaged", None, True)


def test_the_folder_of_a_command_that_failed_has_no_run(tmp_path):
    (tmp_path / "failed/.hydra").mkdir(parents=True)
    (tmp_path / "failed/.hydra/config.yaml").touch()
    assert [*runs_below(tmp_path)] == jobs_of(tmp_path / "failed") == []


LISTS = "a: &a [x,x]\n" + "".join(f"{b}: &{b} [*{a},*{a}]\n" for a, b in zip("abcd", "bcde", strict=True))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "[]"),
        (".hydra/hydra.yaml", "hydra: ["),
        ("scores.json", '[{"metric": "fd"}]'),
        ("scores.json", '[{"metric": "fd", "value": "low"}]'),
        ("config.yaml", LISTS),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_shown(tmp_path, make_run, capsys, file, content):
    runs = [make_run(tmp_path / name) for name in ("good", "other", "bad")]
    (runs[2] / file).parent.mkdir(exist_ok=True)
    (runs[2] / file).write_text(content)
    left_out = compare(runs)
    assert len(left_out.runs) == 1  # two are of one recipe and seed
    assert f"left out: {runs[2]}: damaged: {runs[2]}/{file}: not readable" in left_out.notes[0]
    assert status.main([str(tmp_path)]) == prune.main([str(tmp_path)]) == 0
    assert f"bad: {runs[2]}/{file}: not readable" in capsys.readouterr().out.replace("\n", "")
    assert [line.state for line in lines_below(tmp_path)] == ["damaged", "complete", "complete"]
    assert report([str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"{runs[2]}/{file}: not readable")


def test_each_error_of_the_disk_is_called_by_its_name(capsys):
    def said(number: int) -> str:
        def fail() -> None:
            raise OSError(number, os.strerror(number), "report.html")

        assert exit_status(fail) == 2
        return capsys.readouterr().err

    place = "or choose another place\n"
    assert said(errno.ENOSPC) == f"error: report.html: No space left on device; free some space, {place}"
    assert said(errno.EACCES) == f"error: report.html: Permission denied; change its permissions, {place}"
    assert said(errno.EROFS) == "error: report.html: Read-only file system; choose another place\n"
