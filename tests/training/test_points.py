"""A run on points, whose best denoiser is known, and what the other commands do with its model."""

import json
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion
from diffusion.base.pixels import tiles
from diffusion.checkpoint.restore import Restored, restore
from diffusion.errors import UserError
from diffusion.extras.web import TIMES, write_web
from diffusion.process import grid as grids
from diffusion.process.denoiser import Denoiser
from diffusion.process.sampler import DDIM, DPMSolver, Heun
from diffusion.runs.folder import read_metrics, read_scores
from tests.support.browser import chromium, visit
from tests.support.composing import train

__all__ = ["chromium"]

SMALL = [
    "experiment=points", "data.train=600", "data.val=40", "data.batch_size=50", "data.labels=true", "model.width=8",
    "model.depth=1", "trainer.max_steps=4", "trainer.val_check_interval=2", "sampler.steps=3", "samples.n=20",
    "score.n=30", "least_interval=1", "trainer.accelerator=cpu",
]  # fmt: skip
ON_THE_PAGE: Any = {"ddim": DDIM, "heun": partial(Heun, c=1), "dpm_2m": DPMSolver, "ancestral": partial(DDIM, eta=1)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("points") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name, smaller in {"COARSE": 4, "FINE": 20, "TIMES": (1.0, 0.5)}.items():
            patch.setattr(f"diffusion.kinds.truth.{name}", smaller)
        train(SMALL, folder)
    return folder


def test_the_pictures_show_the_best_denoiser_beside_the_network(run: Path) -> None:
    fields = Image.open(run / "figures/field.png")
    times = json.loads(fields.info["grid"])["times"]
    exact, network = tiles(fields)[:2]
    assert len(tiles(fields)) == 2 * len(times)
    assert (exact != network).any()
    assert all((run / f"figures/{name}.png").is_file() for name in ("paths", "densities"))
    assert len(tiles(Image.open(run / "samples/all.png"))) == 1  # all points in one picture


def test_the_error_above_the_best_is_logged_by_time(run: Path) -> None:
    found = read_metrics(run / "metrics.csv")
    regret, error = (found[f"{name}/mse"].value for name in ("regret", "val"))
    assert len(regret) == 2
    assert (regret > 0).all()
    assert (regret < error).all()
    assert np.mean([found[f"regret/mse_bin{i}"].value[-1] for i in range(10)]) == pytest.approx(regret[-1], rel=0.2)
    assert {"energy_points", "fd_points"} <= {score.metric for score in read_scores(run)}


def test_samples_are_points_and_the_best_denoiser_can_take_the_place_of_the_network(run: Path, ran) -> None:
    words = [f"ckpt={run}", "weights=exact", "n=300", "sampler.steps=20", "hydra.run.dir=out"]
    ran("sample", words)
    points = torch.from_numpy(np.load("out/images.npz")["arr_0"]).reshape(300, 2)
    assert points.dtype == torch.float32
    assert not [*Path("out/images").iterdir()]
    model = diffusion.load(run, weights="exact", device="cpu")
    assert torch.equal(model.sample(300, steps=20, progress=False).flatten(1), points)
    truth = model.denoiser.network
    nearest = torch.cdist(points.double(), truth.means).amin(dim=1)
    assert float(nearest.median()) < 2 * float(truth.widths[0])
    with pytest.raises(UserError, match="needs pictures"):
        model.edit(np.zeros((8, 8, 3), np.uint8))


def test_bits_are_those_of_the_density_and_the_bound_of_8_bits_is_refused(run: Path, ran, refused) -> None:
    words = [f"ckpt={run}", "weights=exact", "n=30", "bits=10", "baselines=[]", "hydra.run.dir=out"]
    ran("evaluate", [*words, "likelihood=flow"])
    (bits,) = [score.value for score in read_scores(Path("out")) if score.metric == "bits_per_dim_flow"]
    assert -4 < bits < 1  # of a density that is high in a small area
    assert "likelihood=bound" in refused("evaluate", words)


def test_other_parts_than_those_for_points_are_refused_in_one_line(refused) -> None:
    assert "features=points" in refused("train", ["data=points", "model=mlp", "hydra.run.dir=out"])
    words = ["data=points", "model=unet_tiny", "features=points", "metrics=points", "hydra.run.dir=out"]
    assert "choose model=mlp" in refused("train", words)


def test_a_study_compares_samplers_with_the_best_denoiser_by_the_energy_distance(run: Path, ran, refused) -> None:
    words = ["sampler", f"ckpt={run}", "weights=exact", "n=20", "nfe=[3]", "samplers=[ddim]", "hydra.run.dir=out"]
    ran("study", [*words, "features=points", "metrics=points"])
    assert "energy_points" in Path("out/study.md").read_text()
    refused("study", [*words, "features=lite0"])


@pytest.fixture
def model(run: Path) -> Restored:
    """With random weights: after few steps the output is almost 0."""
    found = restore(run / "checkpoints/last.ckpt")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in found.denoiser.network.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return found


def test_particles_of_the_page_end_as_in_torch(model: Restored, run: Path, chromium, tmp_path: Path) -> None:
    denoisers = {"exact": restore(run / "checkpoints/last.ckpt", weights="exact").denoiser, "learned": model.denoiser}
    page = write_web(tmp_path / "x.html", model)
    noise, z, classes = torch.randn(20, 2, 1, 1), torch.randn(12, 20, 2, 1, 1), torch.ones(20, dtype=torch.int64)
    with visit(chromium, f"file://{page}", width=390, scheme="dark") as seen:
        for name, method, steps in product(denoisers, ON_THE_PAGE, (3, 12)):
            found = seen.page.evaluate(
                "([x, z, name, method, steps]) => "
                "Array.from(travel(estimates[name], method, steps, x, 1, Float64Array.from(z)).places[steps])",
                [noise.flatten().tolist(), z.flatten().tolist(), name, method, steps],
            )
            streams: Any = SimpleNamespace(normal_like=partial(lambda draws, _: next(draws), iter(z)))
            sampler = ON_THE_PAGE[method](steps=steps, grid=grids.flow)
            expected = sampler(denoisers[name], noise, streams, classes=classes).flatten()
            assert (torch.tensor(found) - expected).abs().max() < 1e-4, (name, method, steps)
        seen.page.get_by_label("sampler").select_option("heun")
        seen.slide("steps", 2)  # the third of 1, 2, 3, 4, 5, 6, 8, …
        seen.page.wait_for_function("() => /^5 eval/.test(document.querySelector('figure span').textContent)")
        seen.page.get_by_label("field").select_option("learned")
        seen.page.wait_for_function("() => document.getElementById('exact').hidden")
        assert (seen.requests, seen.errors, seen.overflow <= 0) == ([f"file://{page}"], [], True)


def test_the_exact_field_of_the_page_is_that_of_the_mixture(model: Restored, run: Path, chromium, tmp_path) -> None:
    exact = restore(run / "checkpoints/last.ckpt", weights="exact").denoiser
    page = write_web(tmp_path / "x.html", replace(model, config=model.config | {"label_dropout": 0.1}))
    x, t = torch.randn(50, 2, 1, 1, dtype=torch.float64), grids.flow(exact.schedule, TIMES)
    script = "([x, i, kind]) => Array.from(noiseOf(x, estimates.exact(x, times[i], kind), times[i]))"
    with visit(chromium, f"file://{page}") as seen:
        for i, kind in product((0, 60, 119), (0, 1, 2)):
            found = seen.page.evaluate(script, [x.flatten().tolist(), i, kind])
            expected = exact(x, t[i].expand(50), torch.full((50,), kind)).eps.flatten()
            assert (torch.tensor(found, dtype=torch.float64) - expected).abs().max() < 1e-9
        assert seen.page.get_by_label("class").locator("option").all_text_contents() == ["0", "1", "no class"]


def test_a_page_refuses_points_that_it_cannot_compute(model: Restored) -> None:
    other = Denoiser(torch.nn.ReLU(), model.denoiser.schedule, model.denoiser.prediction)
    for changed, word in ({"denoiser": other}, "ReLU"), ({"facts": replace(model.facts, ends=4)}, "flow map"):
        with pytest.raises(UserError, match=word):
            write_web(Path("x.html"), replace(model, **changed))
