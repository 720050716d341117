"""Pages in a real browser: they open from disk, make no requests, fit a phone, and their controls work; live pages."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import chromium, visit

from diffusion.base.files import replace
from diffusion.base.pixels import grid, save_png
from diffusion.cli import compare, watch
from diffusion.cli.watch import Server
from diffusion.kinds.pixels import Pixels
from diffusion.process.denoiser import Estimate
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import linear
from diffusion.report.run import write_report
from diffusion.runs.folder import Run
from diffusion.sampling.drawing import Frames

__all__ = ["chromium"]
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def pages(make_run: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that has a film and all samples, another run, their comparison, and the pages."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [make_run(folder / "demo"), make_run(folder / "other", lr=1e-2)]
    for i, run in enumerate(runs):
        with (run / "config.yaml").open("a") as file:
            file.writelines(f"a_long_name_of_a_setting_{k}: {i}\n" for k in range(12))
    frames = Frames(DDIM(steps=10), linear(), Pixels())
    for k in range(1, 11):
        x = torch.full((8, 3, 8, 8), k / 10)
        frames.watch(0, k, x, Estimate(-x, x))
    frames.save_film(runs[0] / "samples/film.png")
    some = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8)
    save_png(grid(some), runs[0] / "samples/all.png")
    write_report(runs[0], linear(100))
    assert compare.main([*map(str, runs), "--out", str(folder / "all")]) == 0
    return folder


def test_a_runs_page_opens_from_disk_and_its_controls_work(chromium: Any, pages: Path) -> None:
    address = f"file://{pages}/demo/report.html"
    with visit(chromium, address) as seen:
        page = seen.page
        assert page.locator("#summary .gallery img").count() == 24
        assert "Noise schedule" in page.inner_text("body")
        assert "1,234,567" not in page.inner_text("body")  # details are folded
        for title in page.locator("summary").all():
            title.click()
        text = page.inner_text("body")
        for words in ("Run demo", "1,234,567", "Noise schedule", "play"):
            assert words in text
        rows = page.locator("#training .rows")
        shown = rows.screenshot()
        seen.slide("step", 0)
        assert rows.get_attribute("aria-label") == "Samples from the same noise, at the selected step, step 100"
        assert rows.screenshot() != shown
        rule = page.locator("#training .selected").bounding_box()["x"]
        seen.slide("step", 3)
        assert page.locator("#training .selected").bounding_box()["x"] > rule
        film = page.locator("#denoising .rows").first.screenshot()
        seen.slide("denoising step", 0)
        assert page.locator("#denoising .rows").first.screenshot() != film
        assert page.locator("#more-samples img").count() == 6
        assert seen.requests == [address]
        assert seen.errors == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
@pytest.mark.parametrize("name", ["demo", "all"])
def test_a_page_fits_its_window_and_follows_its_colours(
    chromium: Any, pages: Path, name: str, width: int, scheme: str
) -> None:
    with visit(chromium, f"file://{pages}/{name}/report.html", width, scheme) as seen:
        assert seen.overflow <= 0
        ink = seen.page.evaluate(
            "getComputedStyle(document.querySelector('.chart svg [style*=\"stroke: var(--ink)\"]')).stroke"
        )
        assert ("27, 31, 36" in ink) == (scheme == "light")
        nameless = seen.page.evaluate("""() =>
            [...document.querySelectorAll("input, select, button, img, .chart svg")]
            .filter((e) => !(e.alt || e.textContent.trim() || e.closest("[aria-label]")))
            .map((e) => e.outerHTML.slice(0, 200))""")
        assert (nameless, seen.errors) == ([], [])
        seen.page.emulate_media(media="print")
        assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_tables_sort_and_two_runs_are_swiped(chromium: Any, make_run: Make, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"r{i}", lr=10.0 ** -(i % 9 + 1)) for i in range(9)]
    for i, run in enumerate(runs):
        record = {"metric": "fd_x", "what": "samples", "n": 8, "value": 100.0 - 11 * i, "low": 0.0, "high": 200.0}
        (run / "scores.json").write_text(json.dumps([record]))
    assert compare.main([*map(str, runs), "--out", str(tmp_path / "all")]) == 0
    with visit(chromium, f"file://{tmp_path}/all/report.html") as seen:
        assert seen.page.inner_text("h1") == "optimizer.lr: 9 recipes, 9 runs"
        for folded in seen.page.locator("summary").all():
            folded.click()
        menus = [seen.page.get_by_label(label) for label in ("A, left", "B, right")]
        assert [menu.input_value() for menu in menus] == ["0", "1"]
        names = menus[0].locator("option").all_inner_texts()[:2]  # the best two
        assert [name[-15:] for name in names] == [" seed 0, run r8", " seed 0, run r7"]
        table = seen.page.locator("#runs table")
        left = "document.querySelector('#runs td').getBoundingClientRect().left"
        seen.page.set_viewport_size({"width": 390, "height": 800})
        before = seen.page.evaluate(left)
        seen.page.evaluate("document.querySelector('#runs table').scrollLeft = 200")
        assert seen.page.evaluate(left) == before  # the name of the run stays visible
        table.get_by_role("button", name="fd").click()
        assert [text[-2:] for text in table.locator("tbody td:first-child").all_inner_texts()] == [
            f"r{8 - i}" for i in range(9)
        ]
        menus[1].select_option("4")
        seen.slide("line between A and B", 20)
        assert "inset(0px 80% 0px 0px)" in seen.page.locator(".swipe img").last.get_attribute("style").replace(
            "0 ", "0px "
        )
        assert seen.errors == []


# ------------------------------------------------------------------------------------------------------ live pages


@pytest.fixture
def folder(tmp_path: Path, make_run: Make) -> Path:
    """Two runs, one of them in a sweep."""
    make_run(tmp_path / "runs/demo")
    make_run(tmp_path / "runs/sweep/0")
    (tmp_path / "runs/sweep/multirun.yaml").write_text("")
    return tmp_path / "runs"


@pytest.fixture
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of `folder`, without rests."""
    monkeypatch.setattr(watch, "REFRESH", 0.2)
    monkeypatch.setattr(watch, "REST", 0.0)
    made = Server(folder, 0)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def get(of: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", of.server_address[1], timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def version(page: str) -> str:
    return page.partition('data-version="')[2].partition('"')[0]


@pytest.mark.usefixtures("undrawn")
def test_the_list_links_to_the_live_page_of_each_run_and_sweep(served: Server) -> None:
    status, page = get(served, "/")
    assert (status, "connect-src 'self'" in page) == (200, True)
    for address in ("/page/demo", "/page/sweep/0", "/page/sweep"):
        assert f'href="{address}"' in page
        status, found = get(served, address)
        assert (status, 'href="/"' in found) == (200, True)
        assert get(served, address, **{"If-None-Match": version(found)}) == (304, "")


@pytest.mark.usefixtures("undrawn")
def test_a_page_is_made_again_only_if_files_have_changed(served: Server, folder: Path) -> None:
    before = version(get(served, "/page/demo")[1])
    held = dict(served.held)
    assert get(served, "/page/demo")[0] == 200
    assert served.held == held
    with (folder / "demo/metrics.csv").open("a") as file:
        file.write(",".join(["9", "499", "", "0.001"] + [""] * (len(Run(folder / "demo").metrics) - 2)) + "\n")
    status, page = get(served, "/page/demo", **{"If-None-Match": before})
    assert (status, "step 500" in page) == (200, True)


@pytest.mark.parametrize(
    "path", ["/page/..", "/page/../secret", "/page//etc", "/page/demo/samples", "/data/demo", "/x"]
)
def test_nothing_else_is_served_and_nothing_can_be_written(served: Server, path: str) -> None:
    assert get(served, path)[0] == 404
    assert get(served, "/", "POST")[0] == get(served, "/page/demo", "DELETE")[0] == 501


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8300", "127.0.0.1.evil.example:8300", "[", ""])
def test_a_request_with_a_foreign_host_header_is_refused(served: Server, host: str) -> None:
    assert get(served, "/", Host=host)[0] == 403
    assert get(served, "/", Host=f"localhost:{served.server_address[1]}")[0] == 200


def test_marked_runs_are_compared_on_a_live_page(served: Server, folder: Path, chromium: Any) -> None:
    with visit(chromium, f"http://127.0.0.1:{served.server_address[1]}/") as seen:
        for run in ("demo", "sweep/0"):
            seen.page.get_by_label(f"compare {run}").check()
        seen.page.get_by_role("button", name="left").click()
        replace(folder / "demo/run.json", json.dumps({"state": "running"}))
        seen.page.wait_for_selector("td:text('died'), td:text('running')")  # the page was loaded again
        assert seen.page.locator("th[aria-sort=ascending]").inner_text() == "left"
        seen.page.get_by_role("button", name="compare").click()
        seen.page.wait_for_selector("h1:text('2 runs')")
        names = seen.page.locator("#curves .chart").first.inner_html()
        assert "demo: 0.06 at 400" in names
        assert "sweep/0: 0.06 at 400" in names
        assert "not ranked" in seen.page.inner_text("#which-is-best")
        assert get(served, "/compare?run=/page/demo&run=/page/none")[0] == 404
        assert seen.grave == []


@pytest.mark.usefixtures("undrawn")
def test_no_page_waits_for_a_slow_one(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on, released = threading.Event(), threading.Event(), list[bool]()

    def slow(*folders: Any, **how: Any) -> Any:
        began.set()
        released.append(go_on.wait(60))
        return compared(*folders, **how)

    compared = watch.compare
    monkeypatch.setattr(watch, "compare", slow)
    other = threading.Thread(target=get, args=(served, "/compare?run=/page/demo&run=/page/sweep/0"))
    other.start()
    assert began.wait(60)
    assert get(served, "/")[0] == get(served, "/page/demo")[0] == 200
    go_on.set()
    other.join()
    assert released == [True]


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_or_vanishing_file_does_not_break_other_pages(
    served: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("scores.json", "run.json"):
        (folder / "sweep/0" / name).write_text("{")
        assert get(served, "/page/demo")[0] == get(served, "/")[0] == 200
        assert get(served, "/page/sweep/0")[0] == 404
    monkeypatch.setattr(watch.run, "run_sections", lambda run: 1 / 0)
    (folder / "demo/config.yaml").touch()
    status, text = get(served, "/page/demo")
    assert (status, "ZeroDivisionError" in text, "Traceback" in text) == (500, True, False)


def test_an_open_page_follows_its_run_and_keeps_the_readers_choices(
    served: Server, folder: Path, chromium: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with visit(chromium, f"http://127.0.0.1:{served.server_address[1]}/page/demo") as seen:
        page = seen.page
        seen.slide("step", 1)
        save_png(grid(torch.zeros(6, 3, 8, 8, dtype=torch.uint8)), folder / "demo/samples/step-00000500.png")
        info = json.loads((folder / "demo/run.json").read_text())
        replace(folder / "demo/run.json", json.dumps(info | {"steps": 12345}))
        page.wait_for_selector("text=12,345", state="attached")  # in a folded section
        assert page.get_by_label("step", exact=True).input_value() == "1"
        assert seen.grave == []
        monkeypatch.setattr(watch.run, "run_sections", lambda run: 1 / 0)
        (folder / "demo/config.yaml").touch()
        page.wait_for_selector("body.silent")


def test_invalid_arguments_give_one_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch.main([str(tmp_path / "none")]) == watch.main([str(tmp_path), "--port", "70000"]) == 2
    assert [line.startswith("error: ") for line in capsys.readouterr().err.splitlines()] == [True, True]
