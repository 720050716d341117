"""report.html as a file: its content, and that no text in it can act as markup."""

import base64
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.config.choices import choices
from diffusion.config.composition import composed, plain
from diffusion.evaluation.frames import FILM_FRAMES, Frames
from diffusion.metric.record import Reference, Score
from diffusion.process.denoiser import Estimate
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import linear
from diffusion.report.images import grid, save_png
from diffusion.report.page import pictures
from diffusion.report.page.document import SCRIPTS, VENDOR, as_json, document
from diffusion.report.page.recipe import built, network_table, schedule_curves
from diffusion.report.page.run import POINTS, curves, film, image_shape, run_page
from diffusion.report.page.study import save_picture, study_page
from diffusion.report.run import write_report
from diffusion.runs.folder import Run, append_scores, read_scores
from diffusion.runs.metrics import Series

HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\u2028"


def data_of(page: str) -> dict[str, Any]:
    """The data embedded in a page."""
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    data: dict[str, Any] = json.loads(found[0])
    return data


def pixels(sheet: dict[str, Any]) -> np.ndarray:
    kind, content = sheet["src"].split(",")
    assert kind in ("data:image/webp;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)


def test_text_in_the_data_never_becomes_markup() -> None:
    page = document({"kind": "run", "title": HOSTILE, "facts": [[HOSTILE, HOSTILE]]})
    assert page.count("<script>") == page.count("</script>") - 1 == len(VENDOR + SCRIPTS)
    assert "onerror=alert(2)>" not in page.replace("\\u003cimg src=x onerror=alert(2)>", "")
    assert data_of(page)["facts"] == [[HOSTILE, HOSTILE]]
    assert "<title>&lt;/script&gt;" in page


def test_the_security_policy_allows_only_the_pages_scripts_and_no_requests() -> None:
    page = document({"kind": "run", "title": "x"})
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]  # type: ignore[index]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["connect-src"] == "'none'"
    assert "unsafe" not in rules["script-src"]
    assert rules["script-src"].count("sha256-") == len(VENDOR + SCRIPTS)
    assert "connect-src 'self'" in document({"kind": "run", "title": "x"}, live=True)


def test_non_finite_numbers_become_null() -> None:
    assert json.loads(as_json({"a": [1.5, float("nan")], "b": (float("inf"),), 3: True})) == {
        "a": [1.5, None], "b": [None], "3": True,
    }  # fmt: skip


def test_a_runs_page_contains_the_values_of_its_files(run_folder: Path) -> None:
    write_report(run_folder, linear(100))
    data = data_of((run_folder / "report.html").read_text())
    metrics, scores = Run(run_folder).metrics, read_scores(run_folder)
    assert metrics.keys() == data["metrics"].keys()
    for name, series in metrics.items():
        assert data["metrics"][name] == {"step": series.step.tolist(), "value": series.value.tolist()}
    assert [(s["metric"], s["what"], s["value"]) for s in data["scores"]] == [
        (s.metric, s.what, s.value) for s in scores
    ]
    assert ["training steps", "400 (8 epochs)"] in data["facts"]
    assert data["strip"]["steps"] == [100, 200, 300, 400]
    assert [name for name, _, _ in data["files"]][:3] == ["config.yaml", "run.json", "metrics.csv"]
    assert data["title"] == "Run demo"
    assert data["network"] is data["film"] is data["samples"] is data["costs"] is None
    assert data["schedule"]["beta"][0] == pytest.approx(1e-4)


def test_the_costs_are_read_from_run_json(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    took = {"seconds_of": {"data": 2.5, "forward": 100.25}, "bytes_of": {"weights": 4938268, "rest": 2500000000}}
    costs = run_page(Run(make_run(tmp_path / "demo", info={"state": "complete", **took})))["costs"]
    assert {f"{what}_of": dict(parts) for what, parts in costs.items()} == took
    old = run_page(Run(make_run(tmp_path / "old", info={"state": "complete", "seconds_of": {"data": 2.5}})))["costs"]
    assert old == {"seconds": [["data", 2.5]], "bytes": None}


def test_times_are_shown_in_utc_and_epochs_once_one_is_complete(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    info = {"state": "complete", "steps": 60, "total_steps": 60, "epochs": 0}
    times = {"started": "2026-11-27T23:58:56.123456+02:00", "finished": "unknown"}
    facts = dict(run_page(Run(make_run(tmp_path / "demo", info=info | times)))["facts"])
    assert facts["training steps"] == "60 of 60"
    assert (facts["started"], facts["finished"]) == ("2026-11-27 21:58:56 UTC", "unknown")


def test_a_folder_with_only_a_configuration_gets_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    data = run_page(Run(tmp_path))
    assert (data["state"], data["scores"], data["metrics"]) == ("not started", [], {})


def test_the_page_of_a_dead_or_failed_run_shows_how_to_resume_it(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    info = {"state": "running", "host": "elsewhere", "pid": 1, "started": "2020-01-01T00:00:00+00:00", "steps": 40}
    folder = make_run(tmp_path / "demo", info=info)
    os.utime(folder / "run.json", (0, 0))  # no update for a long time
    data = run_page(Run(folder))
    assert data["state"] == "died"
    assert "ckpt=auto" in data["resume"]
    failed = run_page(Run(make_run(tmp_path / "other", info=info | {"state": "failed", "reason": "no space left"})))
    assert "ckpt=auto" in failed["resume"]
    assert ["reason", "no space left"] in failed["facts"]


def test_long_curves_are_subsampled_and_keep_both_ends() -> None:
    series = Series(np.arange(100_000), np.random.default_rng(0).normal(size=100_000))
    curve = curves({"train/loss": series})["train/loss"]
    assert len(curve["step"]) == POINTS
    assert (curve["step"][0], curve["step"][-1]) == (0, 99_999)
    assert curve["value"] == series.value[curve["step"]].tolist()


def test_the_film_shows_x_t_and_the_estimates(tmp_path: Path) -> None:
    frames = Frames(DDIM(steps=60), linear())
    for k in range(1, 61):
        x = torch.full((9, 3, 4, 4), k / 60)
        frames.watch(0, k, x, Estimate(-x, x))
        frames.watch(9, k, 0 * x, Estimate(x, x))  # another batch is not shown
    frames.save_film(tmp_path / "film.png")
    found = film(tmp_path / "film.png")
    assert found is not None
    assert (found["rows"], found["columns"]) == (FILM_FRAMES, 16)
    assert found["times"][0] == pytest.approx(frames.times[1])
    assert found["times"][-1] == 0
    cut = pixels(found).reshape(FILM_FRAMES, 4, 16, 4, 3)
    assert abs(cut[-1, :, :8] - 255).max() <= 4
    assert abs(cut[-1, :, 8:]).max() <= 4


def test_a_contact_sheet_keeps_the_positions_of_its_images(tmp_path: Path) -> None:
    images = (torch.arange(6).view(6, 1, 1, 1) * 40).expand(6, 3, 8, 8).to(torch.uint8)
    save_png(grid(images), tmp_path / "all.png")
    sheet = pictures.contact_sheet(tmp_path / "all.png")
    assert sheet is not None
    assert (sheet["rows"], sheet["columns"], sheet["images"]) == (2, 3, 6)
    middle = pixels(sheet)[4::8, 4::8, 0]
    assert abs(middle - np.array([[0, 40, 80], [120, 160, 200]])).max() <= 4


def test_a_contact_sheet_is_limited_in_size_and_states_the_number_of_images(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (600, 3, 16, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    save_png(grid(noise), tmp_path / "all.png", drawn="10000")
    whole = pictures.contact_sheet(tmp_path / "all.png")
    assert whole is not None
    assert (whole["images"], whole["drawn"]) == (600, 10_000)
    assert whole["rows"] * whole["height"] == pytest.approx(whole["columns"] * whole["width"], rel=0.2)
    most = len(whole["src"]) // 3
    some = pictures.contact_sheet(tmp_path / "all.png", most)
    assert some is not None
    assert len(some["src"]) <= most
    assert (some["images"], some["drawn"]) == (pytest.approx(200, abs=20), 10_000)
    first = pixels(some)[:16, :48]
    assert abs(first - pixels(whole)[:16, :48]).mean() < 8


def test_a_large_contact_sheet_is_a_jpeg_and_keeps_positions(tmp_path: Path) -> None:
    images = (torch.arange(4096).view(-1, 1, 1, 1) // 16).expand(-1, 3, 17, 17).to(torch.uint8)
    save_png(grid(images), tmp_path / "all.png")
    sheet = pictures.contact_sheet(tmp_path / "all.png")
    assert sheet is not None
    assert (sheet["rows"], sheet["columns"], sheet["images"], sheet["drawn"]) == (64, 64, 4096, 4096)
    assert sheet["src"].startswith("data:image/jpeg;base64,")
    assert abs(pixels(sheet)[8::17, 8::17, 0] - np.arange(4096).reshape(64, 64) // 16).max() <= 3


def test_a_strip_shows_the_first_the_last_and_some_intermediate_steps(tmp_path: Path) -> None:
    grids = []
    for step in range(0, 1000, 10):
        grids.append((step, save_png(grid(torch.zeros(4, 3, 4, 4, dtype=torch.uint8)), tmp_path / f"{step}.png")))
    strip = pictures.strip(grids, 3, 12)
    assert strip is not None
    assert (len(strip["steps"]), strip["steps"][0], strip["steps"][-1]) == (12, 0, 990)
    assert (strip["rows"], strip["columns"]) == (12, 3)
    assert pictures.strip([], 3, 12) is None


def test_the_networks_parts_sum_to_its_totals() -> None:
    config = plain(composed("train", ["model=unet_tiny", "name=x"]))
    parts = built(config, Path("config.yaml"))
    table = network_table(parts["model"], (3, 32, 32))
    assert sum(row["parameters"] for row in table["rows"]) == table["parameters"] == 2_103_011
    assert sum(row["gflop"] for row in table["rows"]) == pytest.approx(table["gflop"], rel=1e-9)
    stem = next(row for row in table["rows"] if row["part"] == "stem")
    assert stem["gflop"] == pytest.approx(2 * 3 * 32 * 9 * 32 * 32 / 1e9)
    assert stem["output"] == "32×32×32"


def test_a_part_of_the_page_that_fails_is_omitted_with_the_reason(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(parts: object) -> None:
        raise RuntimeError("this schedule needs a GPU")

    monkeypatch.setattr("diffusion.report.page.run.schedule_curves", fail)
    assert run_page(Run(run_folder))["schedule"] is None
    assert "report.html does not show the noise schedule: this schedule needs a GPU" in capsys.readouterr().out


NOT_PRESERVING = ("cifar10", "edm", "edm2", "flow", "score_sde_ve")
WITHOUT_DENSITY = ("edm2",)  # its objective is inside one that learns weights


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_shows_its_schedule_and_its_network(experiment: str) -> None:
    config = plain(composed("train", [f"experiment={experiment}", "name=x"]))
    parts = built(config, Path("config.yaml"))
    assert parts.keys() == {"model", "schedule", "prediction", "objective"}
    found = schedule_curves(parts)
    assert found is not None
    variance = np.square(found["alpha"]) + np.square(found["sigma"])
    assert found["preserving"] == (experiment not in NOT_PRESERVING)
    assert (variance == pytest.approx(1)) == found["preserving"]
    assert ("density" in found) == (experiment not in WITHOUT_DENSITY)
    assert "density" not in found or np.mean(found["density"]) == pytest.approx(1)
    shape = image_shape(config)
    assert shape is not None
    assert network_table(parts["model"], shape)["gflop"] > 0


def test_a_studys_page_groups_scores_by_setting_and_includes_pictures(tmp_path: Path) -> None:
    made = []
    for steps in (5, 10):
        source = {
            "sampler": {"name": "DDIM", "steps": steps, "eta": 0.0},
            "nfe": steps,
            "seconds_per_image": 0.1 * steps,
        }
        for metric in ("fd_lite0", "kid_lite0"):
            made.append(
                Score(metric, 10.0 / steps, 16, low=0.5, high=3.0, reference=Reference("val", 250), source=source)
            )
        save_picture(torch.full((9, 3, 4, 4), 10 * steps, dtype=torch.uint8), source, tmp_path)
    made.append(Score("fd_lite0", 0.7, 16, what="floor", reference=Reference("val", 250)))
    append_scores(tmp_path, made)
    page = study_page(Run(tmp_path))
    assert [(s["steps"], s["nfe"], s["sampler"]) for s in page["settings"]] == [
        (5, 5, "DDIM(eta=0)"),
        (10, 10, "DDIM(eta=0)"),
    ]
    assert [s["scores"]["fd_lite0"]["value"] for s in page["settings"]] == [2.0, 1.0]
    assert [abs(pixels(s["picture"]) - 10 * s["steps"]).max() <= 4 for s in page["settings"]] == [True, True]
    assert [(b["what"], b["value"]) for b in page["baselines"]] == [("floor", 0.7)]
    write_report(tmp_path)
    assert data_of((tmp_path / "report.html").read_text())["kind"] == "study"


def test_a_studys_page_has_no_baselines_of_an_earlier_study(tmp_path: Path) -> None:
    """The later study has another n, and no baselines."""
    for n, baselines in ((64, [Score("fd_lite0", 0.5, 64, what="floor")]), (16, [])):
        drawn = {"sampler": {"name": "DDIM", "steps": 5}, "nfe": 5}
        append_scores(tmp_path, [*baselines, Score("fd_lite0", 1.0, n, reference=Reference("val", 250), source=drawn)])
    assert study_page(Run(tmp_path))["baselines"] == []


def test_a_studys_page_shows_only_the_latest_study_in_its_folder(tmp_path: Path) -> None:
    """Not the settings of an earlier one with other n, another model, another seed or another program."""

    def measured(steps: int, n: int = 16, code: str = "1", **source: Any) -> list[Score]:
        drawn = {"sampler": {"name": "DDIM", "steps": steps}, "nfe": steps, "seed": 0, "network_hash": "a"} | source
        reference, floor = Reference("val", 250), Score("fd_lite0", 0.1 * n, n, what="floor")
        return [floor, Score("fd_lite0", 1.0, n, reference=reference, source=drawn, code=code)]

    for earlier in (measured(5, n=64), measured(5, network_hash="b"), measured(5, seed=1), measured(5, code="2")):
        append_scores(tmp_path, earlier)
    for steps in (10, 20):
        append_scores(tmp_path, measured(steps))
    page = study_page(Run(tmp_path))
    assert [setting["steps"] for setting in page["settings"]] == [10, 20]
    assert [baseline["value"] for baseline in page["baselines"]] == [1.6]
