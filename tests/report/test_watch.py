"""The server of pages: its pages, its access control, and that it follows runs as they start, progress, end and die."""

import http.client
import json
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import chromium, visit

from diffusion.files import replace
from diffusion.report.images import grid, save_png
from diffusion.report.page import run as run_pages
from diffusion.runs import folder as run_folders
from diffusion.runs.folder import Run
from diffusion.runs.record import start_of_process
from diffusion.watch import __main__ as watch
from diffusion.watch import server
from diffusion.watch.server import make_server

__all__ = ["chromium"]
Get = Callable[..., tuple[int, dict[str, str], str]]


@pytest.fixture
def folder(tmp_path: Path, make_run: Callable[..., Path]) -> Path:
    """Two runs, one of them in a sweep."""
    make_run(tmp_path / "runs/demo")
    make_run(tmp_path / "runs/sweep/0")
    (tmp_path / "runs/sweep/multirun.yaml").write_text("")
    return tmp_path / "runs"


@pytest.fixture
def start() -> Iterator[Callable[..., ThreadingHTTPServer]]:
    """`start(folder, token=…)`: a server that runs until the test ends."""
    running: list[ThreadingHTTPServer] = []

    def begin(folder: Path, token: str | None = None) -> ThreadingHTTPServer:
        made = make_server(folder, "127.0.0.1", 0, token)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        running.append(made)
        return made

    yield begin
    for each in running:
        each.shutdown()
        each.server_close()


def get(of: ThreadingHTTPServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", of.server_address[1], timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()


def data(of: ThreadingHTTPServer, address: str) -> dict[str, Any]:
    status, _, text = get(of, f"/data/{address}")
    assert status == 200, text
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_index_lists_runs_and_sweeps_and_each_has_its_page(folder: Path, start: Any) -> None:
    of = start(folder)
    index = data(of, "")
    assert sorted(run["name"] for run in index["runs"]) == ["demo", "sweep/0"]
    assert [(sweep["name"], sweep["runs"]) for sweep in index["sweeps"]] == [("sweep", 1)]
    for each in [*index["runs"], *index["sweeps"]]:
        status, headers, text = get(of, each["link"])
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "connect-src 'self'" in text
    assert data(of, "demo")["metrics"].keys() == Run(folder / "demo").metrics.keys()
    assert data(of, "sweep")["kind"] == "comparison"


def test_the_index_lists_outputs_of_other_commands_separately_or_only_counts_them(
    folder: Path, start: Any, make_output: Callable[..., Path]
) -> None:
    for name, command in (("drawn/0", "sample"), ("drawn/1", "sample"), ("edited", "edit"), ("ev/1", "evaluate")):
        make_output(folder / name, command)
    for name in ("drawn", "ev"):
        (folder / name / "multirun.yaml").touch()
    make_output(folder / "ev/0", "evaluate", [{"metric": "fd_lite0", "what": "samples", "n": 64, "value": 1.5}])
    of = start(folder)
    index = data(of, "")
    assert sorted(run["name"] for run in index["runs"]) == ["demo", "sweep/0"]
    assert [(each["name"], each["command"], each["value"]) for each in index["scored"]] == [("ev/0", "evaluate", 1.5)]
    assert sorted(index["others"]) == [["edit", 1], ["evaluate", 1], ["sample", 2]]
    assert [(sweep["name"], sweep["runs"]) for sweep in index["sweeps"]] == [("ev", 2), ("sweep", 1)]
    assert [run["name"] for run in data(of, "ev")["runs"]] == ["0", "1"]
    assert data(of, "ev")["left_out"] == [["1", "an output of diffusion.evaluate without scores"]]


def test_the_first_page_of_a_single_run_is_the_runs_page(folder: Path, start: Any) -> None:
    assert data(start(folder / "demo"), "")["kind"] == "run"


def test_a_page_is_sent_again_only_when_its_files_change(
    folder: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    real, recipes = server.run_page, []
    monkeypatch.setattr(server, "run_page", lambda run, **more: made.append(run.folder) or real(run, **more))
    of_recipe = run_pages.recipe_of
    monkeypatch.setattr(server, "recipe_of", lambda run: recipes.append(run) or of_recipe(run))
    of = start(folder)
    version = data(of, "demo")["version"]
    assert get(of, "/data/demo", **{"If-None-Match": version})[0] == 304
    assert len(made) == 1
    with (folder / "demo/metrics.csv").open("a") as file:
        file.write(",".join(["9", "499", "0.001"] + [""] * (Run(folder / "demo").metrics.__len__() - 1)) + "\n")
    status, _, text = get(of, "/data/demo", **{"If-None-Match": version})
    assert (status, json.loads(text)["metrics"]["train/loss"]["step"][-1]) == (200, 500)
    assert (len(made), len(recipes)) == (2, 1)


def test_only_the_changed_job_of_a_sweep_is_read_again(
    folder: Path, start: Any, make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(folder / "sweep/1", lr=1e-2)  # another recipe, so that both are compared
    read: list[Path] = []
    real = run_folders.read_metrics
    monkeypatch.setattr(run_folders, "read_metrics", lambda path: read.append(path.parent) or real(path))
    of = start(folder)
    assert len(data(of, "sweep")["runs"]) == 2
    read.clear()
    with (folder / "sweep/1/metrics.csv").open("a") as file:
        file.write(",".join(["9", "499", "0.001"] + [""] * (len(Run(folder / "demo").metrics) - 1)) + "\n")
    read.clear()
    data(of, "sweep")
    assert {*read} == {folder / "sweep/1"}


def test_the_index_shows_new_and_unreadable_runs(folder: Path, start: Any, make_run: Callable[..., Path]) -> None:
    of = start(folder)
    assert len(data(of, "")["runs"]) == 2
    info = {"state": "running", "host": "elsewhere", "pid": 1, "started": "2020-01-01T00:00:00+00:00"}
    made = make_run(folder / "late", info=info)
    assert {run["name"] for run in data(of, "")["runs"]} == {"demo", "sweep/0", "late"}
    (made / "run.json").write_text("{")
    states = {run["name"]: run["state"] for run in data(of, "")["runs"]}
    assert states["late"] == "unreadable"
    status, _, text = get(of, "/page/late")
    assert (status, "not readable" in text) == (404, True)
    assert data(of, "demo")["state"] == "complete"


def test_a_run_whose_process_was_killed_is_shown_as_died(
    folder: Path, start: Any, make_run: Callable[..., Path]
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        here = {"host": platform.node(), "pid": process.pid, "process": start_of_process(process.pid)}
        make_run(folder / "late", info={"state": "running"} | here)
        of = start(folder)
        assert data(of, "late")["state"] == "running"
        process.kill()
    assert data(of, "late")["state"] == "died"


@pytest.mark.parametrize(
    "path", ["/page/../../etc", "/page/%2e%2e/%2e%2e/etc", "/page//etc", "/page/nowhere", "/etc/x", "/x"]
)
def test_paths_outside_the_folder_are_not_served(folder: Path, start: Any, path: str) -> None:
    status, _, text = get(start(folder), path)
    assert status == 404
    assert str(folder) not in text


def test_the_server_is_read_only(folder: Path, start: Any) -> None:
    of = start(folder)
    before = sorted(str(path) for path in folder.rglob("*"))
    for method in ("POST", "PUT", "DELETE"):
        assert get(of, "/", method)[0] == 501
    for path in ("/", "/page/demo", "/page/sweep"):
        assert get(of, path)[0] == 200
    assert sorted(str(path) for path in folder.rglob("*")) == before


def test_a_request_with_a_foreign_host_header_is_refused(folder: Path, start: Any) -> None:
    of = start(folder)
    assert get(of, "/", Host="evil.example:8300")[0] == 403
    assert get(of, "/", Host="localhost:8300")[0] == 200
    assert get(of, "/", Host="[::1]:8300")[0] == 200
    assert get(of, "/", Host="[::1]")[0] == get(of, "/", Host="localhost")[0] == 200
    assert get(of, "/", Host="[::1")[0] == 403


def test_the_server_can_listen_at_an_ipv6_address(folder: Path) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    with make_server(folder, "::1", 0, None) as made:
        assert made.server_address[0] == "::1"


def test_requests_need_the_token_if_one_is_set(folder: Path, start: Any) -> None:
    of = start(folder, token="s3cret")
    assert get(of, "/", Host="machine:8300")[0] == get(of, "/data/demo")[0] == get(of, "/?token=other")[0] == 403
    status, headers, _ = get(of, "/page/demo?token=s3cret")
    assert (status, headers["location"]) == (303, "/page/demo")
    assert "HttpOnly" in headers["set-cookie"]
    cookie = headers["set-cookie"].split(";")[0]
    assert get(of, "/page/demo", Cookie=cookie)[0] == 200
    assert get(of, "/page/demo", Cookie=f'x={{"a": 1}}; (=1; {cookie}; y')[0] == 200  # cookies of other programs
    name = cookie.partition("=")[0]
    assert get(of, "/page/demo", Cookie=f"{name}=other")[0] == 403


def test_two_servers_of_one_host_have_cookies_of_different_names(folder: Path, start: Any) -> None:
    """Browsers send the cookies of all ports."""
    names = {get(start(folder, token="s"), "/?token=s")[1]["set-cookie"].partition("=")[0] for _ in range(2)}
    assert len(names) == 2


def test_a_page_that_fails_gives_a_one_line_error_and_the_server_continues(
    folder: Path, start: Any, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    of = start(folder)
    make = server.run_page

    def vanishing(run: Run, **known: Any) -> dict[str, Any]:
        shutil.rmtree(run.folder)
        (run.folder / "metrics.csv").read_text()
        return make(run, **known)

    monkeypatch.setattr(server, "run_page", vanishing)
    for place in ("/data/demo", "/page/sweep/0"):
        status, _, text = get(of, place)
        assert (status, text.count("\n")) == (500, 0)
        assert "cannot be built now (FileNotFoundError)" in text
        assert str(folder) not in text
    assert re.search("cannot build the page of demo: FileNotFoundError: .*metrics.csv", capsys.readouterr().out)
    assert get(of, "/data/demo")[0] == 404
    assert get(of, "/")[0] == 200


def test_a_damaged_file_does_not_break_other_pages(folder: Path, start: Any) -> None:
    of = start(folder)
    for name in ("metrics.csv", "scores.json", "run.json", "config.yaml", "samples/step-00000400.png"):
        path = folder / "demo" / name
        before = path.read_bytes()
        path.write_bytes(before[: len(before) // 2] + b"\xff\x00")
        assert get(of, "/data/demo")[0] in (200, 404, 500), name
        assert get(of, "/data/")[0] == 200, name
        assert get(of, "/data/sweep/0")[0] == 200, name
        path.write_bytes(before)
        assert get(of, "/data/demo")[0] == 200, name


def test_an_open_page_updates_as_its_run_changes(folder: Path, start: Any, chromium: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(server.Pages.page, "__defaults__", (0.2,))
    of = start(folder)
    address = f"http://127.0.0.1:{of.server_address[1]}"
    with visit(chromium, address) as seen:
        seen.page.get_by_role("link", name="demo").click()
        seen.page.wait_for_selector(".chart svg")
        seen.slide("step", 0)
        info = json.loads((folder / "demo/run.json").read_text())
        replace(
            folder / "demo/run.json", json.dumps(info | {"state": "failed", "reason": "no space left", "steps": 123})
        )
        seen.page.wait_for_selector("text=no space left", timeout=20_000)
        assert "at step 100" in seen.page.inner_text("#training")
        seen.page.get_by_role("link", name="all runs").click()
        seen.page.wait_for_selector("text=123")
        seen.page.get_by_role("button", name="state").click()
        seen.page.get_by_role("button", name="score").focus()
        replace(folder / "demo/run.json", json.dumps(info | {"state": "failed", "steps": 456}))
        seen.page.wait_for_selector("text=456", timeout=20_000)
        assert seen.page.locator("th[aria-sort=ascending]").inner_text() == "state"
        assert seen.page.evaluate("document.activeElement.textContent") == "score"
        assert {re.sub(r"/(data|page)/.*", "", each) for each in seen.requests} <= {address, address + "/"}
        assert [error for error in seen.errors if "304" not in error] == []
        seen.page.get_by_role("link", name="demo").click()
        seen.page.wait_for_selector(".chart svg")
        (folder / "demo").rename(folder / "gone")
        seen.page.wait_for_selector("body.silent", timeout=20_000)


def test_an_update_keeps_the_readers_place(folder: Path, start: Any, chromium: Any, monkeypatch: Any) -> None:
    """The scroll positions, the focus, and the cursor in the filter, during which the page is updated, too."""
    monkeypatch.setattr(server.Pages.page, "__defaults__", (0.2,))
    of = start(folder)
    address = f"http://127.0.0.1:{of.server_address[1]}"
    info = json.loads((folder / "demo/run.json").read_text())

    def update(seen: Any, reason: str) -> None:
        replace(folder / "demo/run.json", json.dumps(info | {"state": "failed", "reason": reason}))
        seen.page.wait_for_selector(f"text={reason}", timeout=20_000)

    with visit(chromium, f"{address}/page/demo", 390) as seen:
        seen.page.wait_for_selector(".chart svg")
        update(seen, "zqx0")  # the reason adds a line
        seen.page.get_by_label("step", exact=True).focus()
        seen.page.evaluate("scrollTo(0, 300)")
        for reason in ("zqx1", "zqx2"):
            update(seen, reason)
            assert seen.page.evaluate("scrollY") == 300
            assert seen.page.evaluate("document.activeElement.ariaLabel") == "step"
    with visit(chromium, address, 390) as seen:
        box = seen.page.locator(".scroll").first
        seen.page.get_by_role("searchbox").type("demo", delay=0)
        seen.page.get_by_role("searchbox").press("ArrowLeft")
        box.evaluate("e => { e.scrollLeft = 100; }")
        update(seen, "zqx3")
        assert box.evaluate("e => e.scrollLeft") == 100
        seen.page.keyboard.type("x")
        assert seen.page.get_by_role("searchbox").input_value() == "demxo"


def test_the_index_sorts_scores_within_their_metrics(
    folder: Path, start: Any, chromium: Any, make_run: Callable[..., Path]
) -> None:
    make_run(folder / "unscored", scores=[])
    of = start(folder)
    with visit(chromium, f"http://127.0.0.1:{of.server_address[1]}") as seen:
        seen.page.get_by_role("button", name="score").click()
        names = seen.page.locator("tbody tr td:nth-child(1)").all_inner_texts()
        assert names[-1].startswith("unscored"), names


def test_thumbnails_are_small(folder: Path, start: Any) -> None:
    pixels = torch.randint(0, 256, (4, 3, 128, 96), dtype=torch.uint8)
    save_png(grid(pixels), folder / "demo/samples/all.png")
    (picture,) = [run["picture"] for run in data(start(folder), "")["runs"] if run["name"] == "demo"]
    assert (picture["width"], picture["height"], picture["columns"]) == (48, 64, 4)


@pytest.mark.parametrize("host", [None, "127.0.0.1", "0.0.0.0", "192.168.0.7"])
def test_other_addresses_than_this_machine_need_a_token(host: str | None, tmp_path: Path, monkeypatch, capsys) -> None:
    listened: list[tuple[str, str | None]] = []

    def recorded(folder: Path, host: str, port: int, token: str | None) -> ThreadingHTTPServer:
        listened.append((host, token))
        return make_server(folder, "127.0.0.1", 0, token)

    monkeypatch.setattr("diffusion.watch.server.make_server", recorded)
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", lambda self: None)
    assert watch.main([str(tmp_path), *([] if host is None else ["--host", host])]) == 0
    ((address, token),) = listened
    assert address == (host or "127.0.0.1")
    assert (token is None) == (address == "127.0.0.1")
    assert token is None or (len(token) >= 20 and f"?token={token}" in capsys.readouterr().out)


def test_invalid_arguments_give_one_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in {
        (str(tmp_path / "nowhere"),): "no such folder",
        (str(tmp_path), "--port", "70000"): "0 to 65535",
        (str(tmp_path), "--host", "203.0.113.1", "--port", "0"): "cannot listen at 203.0.113.1",
    }.items():
        assert watch.main(list(words)) == 2
        out = capsys.readouterr()
        assert out.err.count("\n") == 1
        assert expected in out.err


def test_a_connection_that_the_browser_resets_prints_nothing(start, folder, monkeypatch, capfd):
    served = threading.Event()

    def reset(handler):
        try:
            raise ConnectionResetError
        finally:
            served.set()

    monkeypatch.setattr(server.BaseHTTPRequestHandler, "handle", reset)
    running = start(folder)
    monkeypatch.setattr(running, "daemon_threads", False)  # closing the server waits for its threads
    socket.create_connection(running.server_address).close()
    assert served.wait(30)
    running.shutdown()
    running.server_close()
    assert capfd.readouterr().err == ""
