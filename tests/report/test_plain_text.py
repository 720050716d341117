"""A user's text is printed and drawn literally: never as markup, Markdown, an emoji's name or mathematics."""

import io
import json
import re
from collections.abc import Callable
from html import escape
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from diffusion import compare, console, status
from diffusion.metric.record import Reference, Score
from diffusion.report.__main__ import main as report
from diffusion.report.formatting import escaped, markdown_table
from diffusion.report.scores import print_scores

NAME = "m[/foo]x:x:"  # the `/` makes it two folders in a path
REASON = "rank 1 of [0,1] was killed [/red] by [bold]SIGKILL :boom:"
ROOT = "/$a_{$/b"  # not a formula


@pytest.fixture
def runs(tmp_path: Path, make_run: Callable[..., Path]) -> list[Path]:
    folders = []
    for attention, seed in ("[false,false]", 1), ("[/b]", 2), (f"'{ROOT}'", 3):
        folder = make_run(tmp_path / NAME / str(seed))
        config = folder / "config.yaml"
        config.write_text(
            config.read_text().replace("name: demo", f"name: '{NAME}'\nmodel: {{attention: {attention}}}")
        )
        folders.append(folder)
    return folders


def test_status_prints_user_text_verbatim(tmp_path: Path, runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    info = json.loads((runs[0] / "run.json").read_text())
    (runs[0] / "run.json").write_text(json.dumps(info | {"state": "failed", "reason": REASON}))
    assert status.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f" {NAME}/2 " in out
    assert f"{NAME}/1: {REASON}\n" in out


def test_compare_prints_user_text_verbatim(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    info = json.loads((runs[1] / "run.json").read_text())
    failed = runs[1].parent / "4"
    failed.mkdir()
    (failed / "run.json").write_text(json.dumps(info | {"state": "failed", "reason": REASON}))
    assert compare.main([*map(str, runs), str(failed), "--out", str(runs[0] / NAME)]) == 0
    out = capsys.readouterr().out
    for words in ("attention=[false,", "attention=[/b]", f"attention={ROOT}"):
        assert words in out
    assert f"left out: {failed}: failed: {REASON}\n" in out
    assert (runs[0] / NAME / "compare.png").is_file()


def test_report_prints_user_text_verbatim(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert report([str(runs[0])]) == 0
    assert capsys.readouterr().out == f"{runs[0]}/README.md\n{runs[0]}/report.html\n"
    assert f"# Run {NAME}\n" in (runs[0] / "README.md").read_text()


def test_scores_and_progress_bars_print_user_text_verbatim(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(console.console, "_file", printed)
    print_scores([Score(f"fd_{NAME}", 1.0, 9, reference=Reference(NAME, 9))])
    assert list(console.track([1], NAME, 1)) == [1]
    assert printed.getvalue().count(NAME) == 3


@pytest.mark.parametrize(
    "text",
    [
        "a_b",
        "_a_ __b__",
        "*a* **b**",
        "`a`",
        "[a](b)",
        "![a](b) [a][b]",
        "<b>a</b>",
        "~~a~~",
        "a\\*b\\",
        "a|b",
        "[1, 2]",
    ],
)
def test_markdown_tables_show_user_text_verbatim(text: str) -> None:
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown_table(["x"], [[escaped(text)]]))
    assert re.findall("<td>(.*)</td>", html) == [escape(text)]


def test_escaped_user_text_is_one_line() -> None:
    assert escaped("a\n# b\n") == "a # b"
