"""A model inside its page: from the same noise, the browser draws the same samples as torch."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import chromium, visit

from diffusion.base.pixels import grid, save_png
from diffusion.checkpoint.restore import Restored, restore
from diffusion.errors import UserError
from diffusion.extras.web import STEPS, network_onnx, tables, write_web
from diffusion.metric.record import Reference, Score
from diffusion.model import UNet
from diffusion.process import grid as grids
from diffusion.process import schedule as schedules
from diffusion.process.denoiser import Conditioned, Denoiser, clip, denoiser_of
from diffusion.process.prediction import EDM, Eps, V
from diffusion.process.sampler import DDIM, FlowMap
from diffusion.randomness import Streams
from diffusion.recipe.facts import Facts
from diffusion.runs.folder import append_scores

__all__ = ["chromium"]
CASES = {
    "linear, eps": (schedules.linear(100), Eps(), "uniform"),
    "cosine, v": (schedules.cosine(100), V(), "leading"),
    "edm": (schedules.EDM(), EDM(0.5), "karras"),
}


def network(classes: int = 0, augment: int = 0) -> UNet:
    torch.manual_seed(0)
    made = UNet(channels=[8, 16], blocks=1, attention=[False, True], groups=4, classes=classes, augment=augment)
    with torch.no_grad():
        for weight in made.parameters():  # at initialization the output is 0
            weight.add_(0.05 * torch.randn_like(weight))
    return made.eval()


def drawn(denoiser: Denoiser, grid: str, steps: int, noise: torch.Tensor, kind: int | None = None) -> torch.Tensor:
    sampler = DDIM(steps=steps, grid=getattr(grids, grid), threshold=clip)
    denoise: Any = denoiser if kind is None else Conditioned(denoiser, {"classes": torch.tensor([kind])})
    return sampler(denoise, noise, Streams([0]))


@pytest.mark.parametrize("name", CASES)
def test_the_exported_coefficients_reproduce_ddim(name: str) -> None:
    schedule, prediction, grid = CASES[name]
    denoiser = Denoiser(network(), schedule, prediction)
    config = {"sampler": {"_target_": "diffusion.process.sampler.DDIM", "steps": 9,
                          "grid": {"_target_": f"diffusion.process.grid.{grid}", "_partial_": True}}}  # fmt: skip
    found = tables(denoiser, config)
    assert [*found] == [str(steps) for steps in STEPS]
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for steps in (5, 25):
        [[scale], *rows] = found[str(steps)]
        x = (noise * scale).double()
        for c_in, label, p, q, alpha, sigma, alpha_s, sigma_s in rows:
            with torch.no_grad():
                y = denoiser.network((c_in * x).float(), torch.tensor([label]).float()).double()
            x0 = (p * x + q * y).clamp(-1, 1)
            x = alpha_s * x0 + sigma_s * (x - alpha * x0) / sigma
        assert torch.allclose(x.float(), drawn(denoiser, grid, steps, noise), atol=1e-4)


def test_step_counts_beyond_the_schedule_are_left_out() -> None:
    assert [*tables(Denoiser(network(), schedules.linear(20), Eps()), {})] == ["5", "10"]


def test_the_browser_draws_the_same_images_as_torch(chromium: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnx and onnxscript are not installed (the extra web)")
    schedule, prediction, grid = CASES["cosine, v"]
    denoiser = Denoiser(network(classes=3), schedule, prediction)
    config = {"data": {"resolution": 8}, "model": {"in_channels": 3},
              "sampler": {"_target_": "diffusion.process.sampler.DDIM", "steps": 9,
                          "grid": {"_target_": f"diffusion.process.grid.{grid}", "_partial_": True}}}  # fmt: skip
    labels = {"sky": 2, "water": 1, "</script>": 1}
    model = Restored(denoiser, config, Facts(), tmp_path / "x.ckpt", 7, 1, "ema", {}, labels)
    (tmp_path / "config.yaml").write_text("name: x\n")  # as beside the bundled model
    page = write_web(tmp_path / "x.html", model)
    assert "not started" not in page.read_text("utf-8")
    assert f"<h1>Model {tmp_path.name}" in page.read_text("utf-8")
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with visit(chromium, f"file://{page}") as seen:
        result = seen.page.evaluate(
            """async ([noise, kind]) => {
                const network = await openNetwork(model);
                const table = model.tables["10"];
                return Array.from(await denoise(network, table, Float32Array.from(noise), kind, () => false));
            }""",
            [noise.flatten().tolist(), 1],
        )
        expected = {kind: drawn(denoiser, grid, 10, noise, kind).flatten() for kind in (1, 2)}
        assert (torch.tensor(result) - expected[1]).abs().max() < 1e-3
        assert (torch.tensor(result) - expected[2]).abs().max() > 1e-2  # the class matters
        seen.page.get_by_label("pictures").fill("2")
        seen.page.get_by_label("steps").select_option("5")
        seen.page.get_by_role("button", name="draw").click()
        seen.page.wait_for_function("() => /^2 in/.test(document.querySelector('[role=status]').textContent)")
        assert seen.page.locator("canvas").count() == 2
        assert [each for each in seen.requests if not each.startswith("blob:")] == [f"file://{page}"]
        assert seen.errors == []


def test_a_flow_map_draws_as_one_types_a_seed(chromium: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnx and onnxscript are not installed (the extra web)")
    denoiser = denoiser_of(network(augment=4), schedules.cosine(100), V(), ends=4)
    config = {"data": {"resolution": 8}, "model": {"in_channels": 3}}
    (tmp_path / "config.yaml").write_text("name: x\n")
    model = Restored(denoiser, config, Facts(ends=4), tmp_path / "x.ckpt", 7, 1, "ema", {}, {})
    page = write_web(tmp_path / "x.html", model)
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with visit(chromium, f"file://{page}") as seen:
        for steps in (1, 4):
            result = seen.page.evaluate(
                """async ([noise, steps]) => {
                    const network = await openNetwork(model);
                    const table = model.tables[steps];
                    return Array.from(await denoise(network, table, Float32Array.from(noise), 0, () => false));
                }""",
                [noise.flatten().tolist(), str(steps)],
            )
            expected = FlowMap(steps, grids.uniform)(denoiser, noise, Streams([0])).clamp(-1, 1).flatten()
            assert (torch.tensor(result) - expected).abs().max() < 1e-3
        assert seen.page.get_by_label("steps").input_value() == "1"
        seen.page.get_by_label("seed").fill("7")
        seen.page.wait_for_function("() => /^4 in/.test(document.querySelector('[role=status]').textContent)")


@pytest.mark.whole_report
def test_the_page_for_others_shows_pictures_and_no_paths_states_or_commands(
    two_steps: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusion.extras.web.network_onnx", lambda *_: b"")
    shutil.copytree(two_steps, run := tmp_path / "run")
    (run / "run.json").write_text((run / "run.json").read_text().replace('"complete"', '"running"'))
    save_png(grid(torch.zeros(4, 3, 8, 8, dtype=torch.uint8)), run / "samples/step-00000002.png")
    model = restore(run / "checkpoints/last.ckpt")
    for guided in (False, True):
        config = model.config | {"guidance": {"scale": 2.0} if guided else None}
        page = write_web(tmp_path / "x.html", replace(model, config=config)).read_text("utf-8")
        body = page[page.index("<body>") :]
        assert body.index('class="gallery"') < body.index("<button") < body.index("<details><summary><h2>Training")
        assert ("without the guidance" in body) == guided
        assert not [word for word in (str(photos), str(tmp_path), "running", "diffusion train") if word in body]


def test_a_missing_onnx_exporter_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"pip install -e '.*\[web\]'"):
        network_onnx(network(), (3, 8, 8))


def test_a_page_of_pictures_only_has_no_charts_and_scores(command, two_steps: Path, monkeypatch) -> None:
    monkeypatch.setattr("diffusion.extras.web.network_onnx", lambda *_: b"")
    shutil.copytree(two_steps, "run")
    save_png(grid(torch.zeros(4, 3, 8, 8, dtype=torch.uint8)), Path("run/samples/step-00000002.png"))
    score = Score("fd_lite0", 12.3, 8, reference=Reference("val", 8, "k"), low=10.0, high=14.0)
    append_scores(Path("run"), [score.of("samples", "1", {})])
    pictures = ["gallery", "Draw", "form"]
    for words, parts in (([], [*pictures, "Training", "Scores"]), (["--pictures-only"], pictures)):
        assert command("export", ["run", "x.html", "--format=web", *words])[0] == 0
        page = Path("x.html").read_text("utf-8")
        assert re.findall(r'(?<=<h2>)\w+|(?<=class=")gallery|(?<=<)form', page) == parts
    assert "add --format web" in command("export", ["run", "--pictures-only"])[2]
