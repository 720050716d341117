"""The report of a run as README and page: the values of its files, whatever they contain; pictures and tables."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image

from diffusion.base import console
from diffusion.base.pixels import gif, grid, save_png, tiles
from diffusion.cli import compare
from diffusion.cli.report import main as report
from diffusion.metric.record import Reference, Score
from diffusion.process.schedule import linear
from diffusion.report.classes import class_table
from diffusion.report.numbers import number, plus_minus
from diffusion.report.page import Cell, Section, Table, escaped
from diffusion.report.run import write_report
from diffusion.report.scores import print_scores, protocols, score_table, source_text, value_text
from diffusion.report.verdict import limits
from diffusion.runs.again import place_of
from diffusion.runs.folder import Run, append_scores, read_scores

Make = Callable[..., Path]


def images(n: int = 4, channels: int = 3, height: int = 8, width: int = 8) -> torch.Tensor:
    made = torch.randint(0, 256, (n, channels, height, width), generator=torch.Generator().manual_seed(n))
    return made.to(torch.uint8)


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", text)


def test_the_readme_has_the_facts_scores_figures_and_commands_of_the_run(run_folder: Path) -> None:
    text = write_report(run_folder, linear(100))[0].read_text()
    for words in (
        "# Run demo", "This run is complete.", "| epochs | 8 |", "left out (data_report.json) | 3 |",
        "1,234,567", "5 min 6 s", "2026-01-02 03:04:05",
        "diffusion train experiment=demo", "| `schedule.steps` | 100 | 1000 |", "training 5 min 0 s, validation 6 s",
        "| training images by class | sky=1394, stone=697 |", "n=64 label=sky\n",
        "The best validation MSE is 0.05, at step 300.", "hydra.run.dir=", "ckpt=auto",
    ):  # fmt: skip
        assert words in text, words
    assert {path.name for path in (run_folder / "figures").iterdir()} == {
        f"{name}.png" for name in ("samples", "mse", "bins", "gap", "others", "signal")
    }
    assert all((run_folder / link).exists() for link in links(text))
    page = (run_folder / "report.html").read_text()
    assert len(re.findall(r"<svg ", page)) >= 5
    assert re.findall("<figcaption>(sky|stone)<", page)[:3] == ["sky", "stone", "sky"]  # 0.31, 0.93, 0.55
    for score in read_scores(run_folder):
        assert value_text(score) in page or score.what != "samples"


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_began_with_a_model_shows_samples_before_and_after(run_folder: Path) -> None:
    (run_folder / "samples/step-00000100.png").rename(run_folder / "samples/step-00000000.png")
    with (run_folder / "config.yaml").open("a") as file:
        file.write("init: demo\n")
    pair = "![step-00000000](samples/step-00000000.png)\n\n*before*\n\n![final](samples/final.png)\n\n*after*"
    assert f"## Before and after\n\n{pair}" in write_report(run_folder)[0].read_text()
    for later in [*(run_folder / "samples").glob("step-*[1-9]*.png")]:  # the run has only begun
        later.unlink()
    assert "Before and after" not in write_report(run_folder)[0].read_text()


def test_a_baseline_is_next_to_the_score_of_its_protocol(run_folder: Path) -> None:
    table = score_table(read_scores(run_folder))
    rows = [[cell.text for cell in row] for row in table.cells]
    assert table.head == ["score", "value", "pure noise", "real images"]
    assert rows[0] == ["fd_lite0", "123.4", "301.5", "41.75"]
    assert rows[1:] == [["kid_lite0", "0.0123", "0.456 (n = 128)", "—"]]
    made = source_text(read_scores(run_folder)[0])
    assert made == "samples, step=400, weights=ema, sampler=DDIM(steps=50, eta=0), seed=7"
    scores = [Score("fd", 1.0, 9), Score("fd", 2.0, 9, "noise"), Score("fd", 3.0, 9)]
    assert [[cell.text for cell in row[1:3]] for row in score_table(scores).cells] == [["3", "2"]]  # the latest
    names = ["fd_x", "kid_x", "coverage_x", "precision_x"]
    names += [*(f"train/{name}" for name in names), "copies"]
    scores = [Score(name[6 * ("/" in name) :], 1.0, 9, reference=Reference(name[:5])) for name in reversed(names)]
    assert [row[0].text for row in score_table(scores).cells] == names


@pytest.mark.usefixtures("undrawn")
def test_scores_by_class_are_a_table_of_their_own(make_run: Make, tmp_path: Path) -> None:
    sky, sea = Reference("val", 1250, "a"), Reference("val", 40, "b")
    own = [Score("kid_x", 0.5, 90, "class sky", sky), Score("fd_x", 7.0, 90, "class sky", sky)]
    own += [Score("fd_x", 3.0, 90, "class sea", sea), Score("fd_x", 2.0, 90, "class sea", sea)]
    table = class_table(own)
    assert table is not None
    assert table.head == ["class", "samples", "n", "fd_x", "kid_x"]
    rows = [["sky", "90", "1,250", "7", "0.5"], ["sea", "90", "40", "2", "—"]]  # the latest
    assert [[cell.text for cell in row] for row in table.cells] == rows
    folder, info = tmp_path / "demo", {"photographs": {"val": 25}}
    before = read_scores(make_run(folder, info=info))
    assert class_table(before) is None
    whole = [score_table(before).cells, protocols(before), limits(Run(folder))]
    append_scores(folder, own)
    scores = read_scores(folder)
    assert [score_table(scores).cells, protocols(scores), limits(Run(folder))] == whole
    text = write_report(folder)[0].read_text()
    assert "## Scores by class\n\n| class |" in text


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_files_a_failed_one_and_a_damaged_one_have_a_report_or_a_reason(
    run_folder: Path, make_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "run.json").write_text('{"state": "failed", "reason": "NaN at step 7"}')
    text = write_report(bare)[0].read_text()
    assert "This run has failed. The reason: NaN at step 7." in text
    info = json.loads((run_folder / "run.json").read_text()) | {"steps": 200, "total_steps": 400, "left": 90.0}
    (run_folder / "run.json").write_text(json.dumps(info))
    assert all((bare / link).exists() for link in links(text))
    text = write_report(run_folder, state="running")[0].read_text()
    assert re.search(r"This run is at step 200 of 400, 1 min 30 s left\.", text)
    assert "Next step" not in text
    (run_folder / "metrics.csv").write_text("step,a\n1,x\n")
    for damaged, words in ((run_folder, "metrics.csv"), (tmp_path / "none", "no such folder")):
        assert report([str(bare), str(damaged)]) == 2
        out, err = capsys.readouterr()
        assert out == f"{bare}/README.md\n{bare}/report.html\n"
        assert err.startswith("error: ")
        assert words in err


@pytest.mark.usefixtures("undrawn")
def test_the_commands_of_a_run_fit_what_it_keeps_and_name_its_recipe_after_it_was_resumed(
    run_folder: Path, make_output: Make
) -> None:
    info = json.loads((run_folder / "run.json").read_text())
    info["command"] = ["diffusion", "train", "hydra.run.dir=demo", "ckpt=auto"]
    (run_folder / "run.json").write_text(json.dumps(info))
    make_output(run_folder, "train")
    with (run_folder / ".hydra/hydra.yaml").open("a") as file:
        file.write("  overrides:\n    task: [experiment=demo, seed=3]\n")
    text = write_report(run_folder)[0].read_text()
    for words in ("\ndiffusion train experiment=demo seed=3\n", "\ndiffusion train hydra.run.dir=demo ckpt=auto\n"):
        assert words in text
    assert "ckpt=auto trainer.max_steps=800   # train on" in text
    with (run_folder / "config.yaml").open("a") as file:
        file.write("checkpoint: {finished: weights}\n")
    text = write_report(run_folder)[0].read_text()
    assert f"diffusion train experiment=demo seed=3 init={place_of(Run(run_folder))}   # train on" in text
    for words in ("trainer.max_steps=800", ".ckpt"):  # the run removes its checkpoints after it has written this
        assert words not in text


@pytest.mark.usefixtures("undrawn")
def test_samples_of_an_end_of_the_run_keep_their_step_when_it_goes_on(run_folder: Path) -> None:
    save_png(grid(images(), step=400), run_folder / "samples/all.png")
    assert "from 2,091 images in 400 steps, 5 min 0 s." in write_report(run_folder)[0].read_text()
    info = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps(info | {"steps": 424}))
    assert "from 2,091 images in 400 steps." in write_report(run_folder)[0].read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_report_builds_only_known_classes(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (run_folder / "config.yaml").read_text()
    (run_folder / "config.yaml").write_text(config.replace("diffusion.process.schedule.linear", "os.system"))
    assert report([str(run_folder)]) == 0
    assert "os.system" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_a_folder_of_runs_gets_a_list_with_links_to_their_pages(
    make_run: Make, make_output: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "sweep/0", "sweep/1"):
        make_run(tmp_path / name)
    (tmp_path / "sweep/multirun.yaml").touch()
    make_output(tmp_path / "drawn", "sample")
    make_output(tmp_path / "scored", "evaluate", [{"metric": "fd", "value": 1.5, "what": "samples"}])
    assert report([str(tmp_path / "a"), str(tmp_path / "sweep"), str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'href="([^"#]*/report.html)"', page) == ["sweep/report.html", "a/report.html"]
    for words in ("sweep/1", "<td>scored</td>", "fd 1.5"):
        assert words in page


def test_each_part_of_a_split_table_begins_with_the_columns_that_name_its_rows(capsys) -> None:
    rows = [["ddim", str(steps), *(f"{name}{'.' * 40}" for name in "abcd")] for steps in (25, 50)]
    Table(["sampler", "steps", *"abcd"], rows).print(console.console)
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if "..." in line]
    assert len(lines) > 2
    assert lines == len(lines) // 2 * [["ddim", "25"], ["ddim", "50"]]


HOSTILE = 'x</script><script>alert(1)</script><img src=x onerror=alert(1)>" `|*_$a_{$[link](x)'


def test_users_text_is_escaped_everywhere(run_folder: Path, make_run: Make, tmp_path: Path) -> None:
    for folder in (run_folder, make_run(tmp_path / "other", lr=1)):
        config = (folder / "config.yaml").read_text().replace("name: demo", f"name: {json.dumps(HOSTILE)}")
        config = config.replace("  size: 32", f"  size: {json.dumps(HOSTILE + folder.name)}")
        (folder / "config.yaml").write_text(config)
        info = json.loads((folder / "run.json").read_text()) | {"reason": HOSTILE, "command": [HOSTILE] * 3}
        (folder / "run.json").write_text(json.dumps(info))
    assert report([str(run_folder)]) == 0
    assert compare.main([str(run_folder), str(tmp_path / "other"), "--out", str(tmp_path / "out")]) == 0
    for page in (run_folder, tmp_path / "out"):
        text = (page / "report.html").read_text()
        assert "<img src=x" not in text
        assert "<script>alert" not in text
        assert text.count("<script") == 1
    markdown = MarkdownIt("commonmark").enable("table").render((run_folder / "README.md").read_text())
    assert "<img src=x" not in markdown
    assert "alert(1)&lt;/script&gt;" in markdown


@pytest.mark.parametrize("text", ["a*b*", "_x_ y_z", "[a](b)", "`c", "<b>", "a\\b", "a|b", "~~x~~", "a_b_c", "\n# x"])
def test_markdown_shows_text_verbatim(text: str) -> None:
    shown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(
        f"| a |\n| --- |\n| {escaped(text).replace('|', chr(92) + '|')} |"
    )  # fmt: skip
    assert Markup("<td>{}</td>").format(" ".join(text.split())) in shown


def test_scores_and_progress_bars_print_text_verbatim_and_no_number_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(console.console, "_file", printed)
    monkeypatch.setattr(console.console, "_width", 40)
    name = "m[/foo]x:x:"
    baselines = [Score(f"fd_{name}", i + 0.125, 9, what, reference=Reference("val", 9)) for i, what in enumerate("ab")]
    print_scores([Score(f"fd_{name}", 1.0, 9, reference=Reference(name, 9), low=0.5, high=1.5), *baselines])
    assert list(console.track([1, 2], name, 2)) == [1, 2]
    assert printed.getvalue().count(name) == 5
    assert "1.00 [0.50, 1.50]" in printed.getvalue()
    assert "image/s" not in printed.getvalue()  # of less than a second


def test_numbers_are_rounded_to_the_digits_of_their_interval() -> None:
    assert [number(105.678, half) for half in (1.234, 0.0123, 12.0, 123.0)] == ["105.7", "105.678", "106", "110"]
    assert [number(x) for x in (0.0123456, 29610.4, 1.5e6, 1e-5, 0.0, 3.0)] == [
        "0.01235",
        "29610",
        "1.5e+06",
        "1e-05",
        "0",
        "3",
    ]
    assert plus_minus(105.678, 1.234) == "105.7 ± 1.2"
    assert plus_minus(1.0, 1e-17) == "1 ± 0"
    assert plus_minus(1.25, float("nan")) == "1.25"


def test_a_table_has_one_content_in_all_its_forms() -> None:
    table = Table(["name", "x"], [["a|`b`", Cell("1", 1.25, bold=True)], ["<c>", None]])
    assert table.markdown.splitlines()[2] == "| a\\|`b` | **1** |"
    shown = Section("Things", [table]).html
    assert "<td>a|<code>b</code></td>" in shown
    assert "<td>&lt;c&gt;</td>" in shown
    assert table.csv() == "name,x\r\na|`b`,1.25\r\n<c>,\r\n"


def test_a_grid_is_pixel_exact_and_can_be_split_into_its_images(tmp_path: Path) -> None:
    for n, channels, columns in ((1, 3, None), (5, 3, None), (7, 1, 3), (4, 4, 2)):
        made = images(n, channels, 4, 6)
        cut = tiles(Image.open(save_png(grid(made, columns), tmp_path / "a.png")))
        if channels == 3:
            assert (np.stack(cut) == made.permute(0, 2, 3, 1).numpy()).all()
        assert len(cut) == n
    assert grid(images(9), large=True).width == 3 * 8 * 16 + 2 * 2
    frames = [Image.fromarray(np.full((4, 4, 3), 40 * i, np.uint8)) for i in range(5)]
    film = Image.open(gif(frames, tmp_path / "a.gif"))
    assert (film.n_frames, film.info["loop"]) == (5, 0)
