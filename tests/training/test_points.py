"""A run on points, whose best denoiser is known, and what the other commands do with its model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import diffusion
from diffusion.errors import UserError
from diffusion.pixels import opened, tiles
from diffusion.runs.folder import read_metrics, read_scores
from tests.support.composing import train

SMALL = [
    "experiment=points", "data.train=600", "data.val=40", "data.batch_size=50", "data.labels=true", "model.width=8",
    "model.depth=1", "trainer.max_steps=4", "trainer.val_check_interval=2", "sampler.steps=3", "samples.n=20",
    "score.n=30", "least_interval=1", "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("points") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name, smaller in {"COARSE": 4, "FINE": 20, "TIMES": (1.0, 0.5)}.items():
            patch.setattr(f"diffusion.scoring.truth.{name}", smaller)
        train(SMALL, folder)
    return folder


def test_the_pictures_show_the_best_denoiser_beside_the_network(run: Path) -> None:
    fields = opened(run / "figures/field.png")
    times = json.loads(fields.info["grid"])["times"]
    exact, network = tiles(fields)[:2]
    assert len(tiles(fields)) == 2 * len(times)
    assert (exact != network).any()
    assert all((run / f"figures/{name}.png").is_file() for name in ("paths", "densities"))
    assert len(tiles(opened(run / "samples/all.png"))) == 1  # all points in one picture


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


def test_a_study_compares_samplers_with_the_best_denoiser_by_the_energy_distance(run: Path, ran, refused) -> None:
    words = ["sampler", f"ckpt={run}", "weights=exact", "n=20", "nfe=[3]", "samplers=[ddim]", "hydra.run.dir=out"]
    ran("study", [*words, "features=points", "metrics=points"])
    assert "energy_points" in Path("out/study.md").read_text()
    refused("study", [*words, "features=lite0"])
