"""report.html in a real browser: it opens from disk, makes no requests, shows the files' values, and is usable."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import chromium, visit

from diffusion import compare
from diffusion.evaluation.frames import Frames
from diffusion.process.denoiser import Estimate
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import linear
from diffusion.report.formatting import value_text
from diffusion.report.images import grid, save_png
from diffusion.report.run import write_report
from diffusion.runs.folder import read_scores

__all__ = ["chromium"]

HOSTILE = "x</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture
def whole_run(run_folder: Path) -> Path:
    """A run with a film, all samples, the seconds of its parts, and its page."""
    frames = Frames(DDIM(steps=10), linear())
    for k in range(1, 11):
        x = torch.full((8, 3, 8, 8), k / 10)
        frames.watch(0, k, x, Estimate(-x, x))
    frames.save_film(run_folder / "samples/film.png")
    save_png(
        grid(torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)), run_folder / "samples/all.png", drawn="1020"
    )
    info = json.loads((run_folder / "run.json").read_text())
    took = {"seconds_of": {"data": 2.0, "forward": 100.5}, "bytes_of": {"weights": 4938268, "rest": 2500000000}}
    (run_folder / "run.json").write_text(json.dumps(info | took))
    write_report(run_folder, linear(100))
    return run_folder


def test_a_runs_page_opens_from_disk_and_its_controls_work(chromium: Any, whole_run: Path) -> None:
    address = f"file://{whole_run}/report.html"
    with visit(chromium, address) as seen:
        text = seen.page.inner_text("body")
        for score in read_scores(whole_run):
            assert value_text(score) in seen.page.content()
        for words in ("Run demo", "400 (8 epochs)", "1,234,567", "Noise schedule", "forward", "20 of 1,020 samples"):
            assert words in text
        took = seen.page.locator("#time-and-memory").inner_text()
        assert all(words in took for words in ("2 s, 2%", "4.94 MB", "2.5 GB"))
        assert seen.page.locator(".chart svg").count() >= 6
        shown = seen.shot("Samples from the same noise")
        seen.slide("step", 0)
        assert "at step 100" in seen.page.inner_text("#training")
        assert seen.shot("Samples from the same noise") != shown
        film = seen.shot("x_t of 8 samples")
        seen.slide("denoising step", 0)
        assert seen.shot("x_t of 8 samples") != film
        before = seen.page.locator(".zoomed img").bounding_box()["width"]
        seen.slide("zoom", 2)
        assert seen.page.locator(".zoomed img").bounding_box()["width"] == 40 < before
        seen.page.get_by_label("quantity").select_option("Generalisation gap")
        assert seen.requests == [address]
        assert seen.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_light_and_dark_mode(chromium: Any, whole_run: Path, scheme: str) -> None:
    with visit(chromium, f"file://{whole_run}/report.html", 375, scheme) as seen:
        seen.page.wait_for_selector(".chart svg")
        assert seen.overflow <= 0
        background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_printed_page_is_dark_on_white_without_controls(chromium: Any, whole_run: Path) -> None:
    with visit(chromium, f"file://{whole_run}/report.html", 720, "dark") as seen:
        seen.page.wait_for_selector(".chart svg")
        seen.page.emulate_media(media="print")
        for where, what, value in (
            ("body", "backgroundColor", "rgb(255, 255, 255)"),
            (".chart svg", "color", "rgb(27, 31, 36)"),
            ("nav", "display", "none"),
            (".controls", "display", "none"),
            (".zoomed", "overflow", "visible"),
        ):
            shown = f"getComputedStyle(document.querySelector('{where}')).{what}"
            assert seen.page.evaluate(shown) == value, where
        assert seen.overflow <= 0


def test_every_control_and_image_has_an_accessible_name(chromium: Any, whole_run: Path) -> None:
    with visit(chromium, f"file://{whole_run}/report.html") as seen:
        seen.page.wait_for_selector(".chart svg")
        nameless = seen.page.evaluate("""() => [...document.querySelectorAll("input, select, button, canvas, img, svg")]
            .filter((e) => !e.closest('[class*="swatch"]') && !e.closest(".chart [aria-hidden]"))
            .filter((e) => !(e.getAttribute("aria-label") || e.getAttribute("alt") || e.textContent.trim()))
            .map((e) => e.outerHTML.slice(0, 200))""")
        assert nameless == []


def test_a_hostile_run_name_is_shown_as_text(chromium: Any, run_folder: Path) -> None:
    config = (run_folder / "config.yaml").read_text().replace("name: demo", f"name: {json.dumps(HOSTILE)}")
    (run_folder / "config.yaml").write_text(config)
    write_report(run_folder, linear(100))
    with visit(chromium, f"file://{run_folder}/report.html") as seen:
        assert seen.page.title() == f"Run {HOSTILE}"
        assert seen.page.inner_text("h1") == f"Run {HOSTILE}"
        assert seen.page.locator("img[src=x]").count() == 0
        assert seen.errors == []


def test_a_score_without_spread_is_drawn_as_a_dot_without_an_interval(
    chromium: Any, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    score = {"metric": "coverage_lite0", "what": "samples", "n": 16, "value": 0.0, "seed": 0}
    runs = []
    for i in range(4):
        run = make_run(
            tmp_path / str(i), lr=(1e-3, 1e-4)[i % 2], scores=[score, score | {"metric": "fd_lite0", "value": i}]
        )
        (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("seed: 0", f"seed: {i // 2}"))
        runs.append(str(run))
    assert compare.main([*runs, "--out", str(tmp_path / "all")]) == 0
    with visit(chromium, f"file://{tmp_path}/all/report.html") as seen:
        for metric, intervals in {"coverage_lite0": 0, "fd_lite0": 2}.items():
            chart = seen.page.locator(f"#scores-by-recipe .chart[aria-label^='{metric} ']")
            chart.locator("svg").wait_for()
            assert chart.locator("g[aria-label=rule] line").count() == intervals
            assert chart.locator("g[aria-label=dot] circle").count() == 4 + 2


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_recipes_that_differ_in_many_settings_fits_the_window(
    chromium: Any, make_run: Callable[..., Path], tmp_path: Path, width: int
) -> None:
    runs = [make_run(tmp_path / str(i), lr=lr) for i, lr in enumerate((1e-3, 1e-4))]
    for i, run in enumerate(runs):
        with (run / "config.yaml").open("a") as file:
            file.writelines(f"a_long_name_of_a_setting_{k}: {i}\n" for k in range(30))
    assert compare.main([*map(str, runs), "--out", str(tmp_path / "all")]) == 0
    with visit(chromium, f"file://{tmp_path}/all/report.html", width) as seen:
        seen.page.wait_for_selector(".chart svg")
        assert seen.overflow <= 0
        size = seen.page.locator("#settings-and-results svg").last.bounding_box()["width"]
        assert size > 30 * 110  # scrolls instead of being shrunk
        assert seen.page.locator("#recipes tbody td:first-child").all_inner_texts() == ["1", "2"]
        labels = seen.page.locator("#scores-by-recipe .chart").first.locator("[aria-label='y-axis tick label'] text")
        assert labels.all_text_contents() == ["row 1", "row 2"]
        assert seen.errors == []


def test_protocols_have_code_elements_and_metrics_of_one_protocol_share_an_entry(
    chromium: Any, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    made = {"what": "samples", "n": 16, "value": 0.5, "features": "lite0"}
    scores = [made | {"metric": name, "settings": {"k": k}} for name, k in (("a", 3), ("b", 3), ("c", 5))]
    run = make_run(tmp_path / "0", scores=scores)
    write_report(run, linear(100))
    assert compare.main([str(run), "--out", str(tmp_path / "all")]) == 0
    for page, place in ((tmp_path / "all", "#recipes ul"), (run, "#scores details table")):
        with visit(chromium, f"file://{page}/report.html") as seen:
            assert "`" not in (seen.page.locator(place).text_content() or "`")
            assert seen.page.locator(f"{place} code", has_text="lite0").count() >= 2
            if page != run:
                entries = [text.partition(": ")[0] for text in seen.page.locator(f"{place} li").all_inner_texts()]
                assert entries == ["val/mse", "fit/mse", "gap/mse", "a, b", "c", "seconds"]


def test_axes_have_labels_that_fit_and_steps_start_at_0(chromium: Any, whole_run: Path) -> None:
    with visit(chromium, f"file://{whole_run}/report.html") as seen:
        for low, high, pixels in ((0.9305, 0.9553, 150), (-0.0031, 0.0024, 150), (0, 0, 200), (1e5, 3e6, 240)):
            axis = seen.page.evaluate(f"linearAxis(range([{low}, {high}]), {pixels})")
            texts = seen.page.evaluate(f"{axis['ticks']}.map(number)")
            assert len(texts) >= 2
            assert sum(7 * len(text) for text in texts) < pixels
            assert axis["domain"][0] <= low <= high <= axis["domain"][1]
        narrow, wide = (seen.page.evaluate(f"positiveAxis({values}, 140)") for values in ([0.939, 0.9466], [0.06, 4]))
        assert (narrow["type"], len(narrow["ticks"]) >= 2) == ("linear", True)
        assert (wide["type"], wide["ticks"]) == ("log", [0.06, 0.2, 0.5, 1, 2, 4])
        assert seen.page.evaluate("stepAxis(3, 500).ticks") == [0, 1, 2, 3]
        axes = seen.page.locator("#training .chart").first

        def labels(axis: str) -> list[str]:
            return axes.locator(f"[aria-label='{axis}-axis tick label'] text").all_text_contents()

        assert labels("x")[0] == "0"
        assert (labels("y")[0], labels("y")[-1]) == ("0.0025", "0.8")


def test_a_comparison_page_sorts_and_filters_and_compares_two_runs(
    chromium: Any, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    """A recipe without a score is last in both directions."""
    rates = [1e-3, 3e-4, 1e-4, 1e-5]
    scores = [{"metric": "fd_lite0", "what": "samples", "n": 16, "value": v, "seed": 0} for v in (30.5, 9.25, 120.0)]
    runs = [make_run(tmp_path / str(i), lr=rates[i], scores=scores[i : i + 1]) for i in range(4)]
    assert compare.main([*map(str, runs), "--out", str(tmp_path / "all")]) == 0
    with visit(chromium, f"file://{tmp_path}/all/report.html") as seen:

        def column(section: str, i: int) -> list[str]:
            return seen.page.locator(f"#{section} tbody tr td:nth-child({i})").all_inner_texts()

        head = seen.page.locator("#recipes thead th").all_inner_texts()
        place = head.index("fd_lite0") + 1
        assert [value.split()[0] for value in column("recipes", place)] == ["30.5", "9.25", "120", "—"]
        seen.page.locator("#recipes th button", has_text="fd_lite0").click()
        assert [value.split()[0] for value in column("recipes", place)] == ["9.25", "30.5", "120", "—"]
        seen.page.locator("#recipes th button", has_text="fd_lite0").click()
        assert [value.split()[0] for value in column("recipes", place)] == ["120", "30.5", "9.25", "—"]
        seen.page.get_by_label("Filter: Recipes").fill("lr=0.001")
        assert len(column("recipes", place)) == 1
        clip = seen.page.locator(".swipe canvas").last
        seen.slide("line between A and B", 20)
        assert "80%" in clip.evaluate("e => e.style.clipPath")
        seen.page.locator("#two-runs select").last.select_option("2")
        assert "0.0001" in seen.page.inner_text("#two-runs table")
        assert seen.errors == []


def test_a_comparison_page_shows_all_runs(chromium: Any, make_run: Callable[..., Path], tmp_path: Path) -> None:
    """Also those without the first score, and pairs of runs whose pictures differ from those of the first run."""
    runs = []
    for i, sampler in enumerate("aabbb"):
        score = {"metric": "fd_lite0", "what": "samples", "n": 16, "value": float(i), "seed": 0, "features": sampler}
        name = f"2026-11-28_20-18-14_{i}_with_a_long_name_of_a_folder"
        runs.append(make_run(tmp_path / name, lr=10.0 ** -(2 + i), scores=[score]))
    save_png(grid(torch.zeros(4, 3, 16, 8, dtype=torch.uint8)), runs[0] / "samples/final.png")
    save_png(grid(torch.zeros(4, 3, 16, 8, dtype=torch.uint8)), runs[0] / "samples/all.png")
    assert compare.main([*map(str, runs), "--mixed", "--out", str(tmp_path / "all")]) == 0
    with visit(chromium, f"file://{tmp_path}/all/report.html", 390) as seen:
        seen.page.wait_for_selector(".chart svg")
        assert seen.page.locator("#settings-and-results [aria-label=line] path").count() == 5
        assert seen.page.locator("#two-runs select").first.locator("option").count() == 4
        assert seen.overflow <= 0
        assert seen.errors == []


def test_long_names_of_classes_and_single_points_are_drawn(
    chromium: Any, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    score = {"metric": "fd_lite0", "n": 16, "value": 1.0, "seed": 0}
    scores = [score | {"what": "samples"}, score | {"what": f"class {'n' * 40}"}]
    run = make_run(tmp_path / "run", scores=scores)
    (run / "metrics.csv").write_text("step,train/loss\n9,0.5\n")
    write_report(run, linear(100))
    with visit(chromium, f"file://{run}/report.html", 390) as seen:
        assert seen.page.locator("#training g[aria-label=dot] circle").count() == 1
        left = seen.page.locator("#scores svg text").evaluate_all(
            "e => Math.min(...e.map((t) => t.getBoundingClientRect().x))"
        )
        assert left >= 0
        assert seen.errors == []
