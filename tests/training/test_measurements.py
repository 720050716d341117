"""A run on measurements with missing values, and one on fields with a known posterior; what is done with the models."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import diffusion
from diffusion.config.choices import choice
from diffusion.data import Arrays
from diffusion.errors import UserError
from diffusion.metric.distances import EnergyDistance
from diffusion.metric.measurements import EYES, Measurements
from diffusion.process.schedule import VP
from diffusion.runs.folder import read_metrics, read_scores
from diffusion.sampling.edits import observation_of
from diffusion.scoring.pipeline import Scorer
from diffusion.training.module import Diffusion
from tests.support.composing import train

SMALL = [
    "model.channels=[8,16]", "model.attention=[false,false]", "model.groups=4", "trainer.max_steps=3",
    "trainer.val_check_interval=3", "samples.n=4", "samples.every_n_epochs=null", "sampler.steps=2",
    "least_interval=1", "trainer.accelerator=cpu", "data.batch_size=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 arrays of two channels, the first of which is missing in half of them."""
    root = tmp_path_factory.mktemp("arrays")
    values = np.random.default_rng(0).normal([[[280]], [[1e5]]], [[[5]], [[300]]], (40, 2, 16, 16)).astype("f4")
    values[::2, 0] = np.nan
    np.save(root / "all.npy", values)
    return root


@pytest.fixture(scope="module")
def run(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured") / "run"
    words = [f"data.root={files}", "data.resolution=16", "data.channels=2", "data.names=[t,p]", "data.units=[K,Pa]"]
    train(["experiment=measurements", *words, "prediction=eps", "optimizer.lr=1e-9", "score.n=8", *SMALL], folder)
    return folder


@pytest.fixture(scope="module")
def downscaling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fields") / "run"
    train(["experiment=fields", "data.train=40", "data.val=8", "score.n=24", *SMALL], folder)
    return folder


def test_missing_values_are_in_no_error_and_samples_have_the_units_of_the_files(run: Path) -> None:
    metrics = read_metrics(run / "metrics.csv")
    for name in ("train/loss", "val/mse", "fit/mse"):  # of a network that estimates 0
        assert metrics[name].value[-1] == pytest.approx(1, abs=0.1)
    model = diffusion.load(run, device="cpu")
    assert (model.restored.kind.names, model.restored.kind.units) == (["t", "p"], ["K", "Pa"])
    assert model.restored.kind.mean == pytest.approx([280, 1e5], rel=1e-3)
    assert model.restored.kind.std == pytest.approx([5, 300], rel=0.1)
    assert model.sample(2, progress=False).dtype == torch.float32
    found = {(score.what, score.metric) for score in read_scores(run)}
    assert found == {*product(("samples", "noise", "real", "split_half"), (f"energy_{eye}" for eye in EYES))}
    assert (run / "figures/measurements.png").is_file()


def test_the_validation_error_is_that_of_known_values() -> None:
    """Where values are known, the estimate of ε = 0 is 2, elsewhere 100."""
    x0, found = torch.zeros(3, 2, 4, 4), list[torch.Tensor]()
    x0[:, 0, :2] = torch.nan
    eps = torch.where(x0.isnan(), 100.0, 2.0)
    denoiser = Mock(return_value=Mock(eps=eps), schedule=VP())
    module = Mock(denoiser=denoiser, device=x0.device, missing=True, condition=None, exact=None, times=lambda u: u)
    module.raw_denoiser.return_value, module.shown.return_value = None, (x0, {}, None)
    module.settings.validation.draws, module.frozen.t.return_value = 1, torch.full((3,), 0.5)
    module.frozen.noise.return_value = torch.zeros_like(x0)
    module.errors = {"ema": Mock(update=lambda part, error, *_: found.append(error))}
    Diffusion.validation_step(module, Mock(), 0)
    torch.testing.assert_close(found[0], torch.full((3,), 4.0))


def test_samples_lose_the_values_that_real_images_lack_before_they_are_scored(files: Path, tmp_path: Path) -> None:
    data = Arrays(root=files, resolution=16, channels=2, val=4, test=4)
    data.setup()
    complete = data.kind.outside(torch.randn(40, 2, 16, 16, generator=torch.Generator().manual_seed(0)) / 2)
    found = Scorer(data, "train", Measurements(), [EnergyDistance()], tmp_path, tmp_path).score(complete)
    assert all(score.low < 0 for score in found if score.metric in ("energy_values", "energy_spectrum"))


def test_the_referee_judges_measurements_in_any_unit_by_eyes_without_a_network(tmp_path: Path) -> None:
    """Missing values of the real images are not seen; images of 6 pixels have no patches and convolutions."""
    values = np.random.default_rng(0).normal([[[280]], [[1e5]]], [[[5]], [[300]]], (700, 2, 16, 16)).astype("f4")
    np.save(tmp_path / "all.npy", np.where(np.arange(16) < 5, np.nan, values[:480]))
    for side, eyes in ((16, {"spectrum", "patches", "random convolutions"}), (6, {"spectrum"})):
        data = Arrays(root=tmp_path / "all.npy", resolution=side, channels=2)
        data.setup()
        scorer = Scorer(data, "val", Measurements(), [EnergyDistance()], tmp_path, tmp_path)
        own = torch.from_numpy(values[480:, :, :side, :side].copy())
        for samples, said in ((own, []), (own.sort(dim=2).values, ["spectrum"])):
            scorer.judge(samples)
            found = json.loads((tmp_path / "referee.json").read_text())["further"]
            assert {*found["eyes"]} == eyes
            assert {*said} <= {*found["by"]} if said else found["by"] == []
        assert len(scorer.score(own)) == (4 if side == 16 else 2)


def test_figures_in_a_file_are_checked(run: Path) -> None:
    for wrong in ({"mean": "x"}, {"std": [0.0, 1.0]}):
        restored = diffusion.load(run, device="cpu").restored
        facts = replace(restored.facts, figures={**restored.facts.figures, **wrong})
        restored = replace(restored, facts=facts)
        with pytest.raises(UserError, match=rf"measured\.{next(iter(wrong))}"):
            _ = restored.kind


def test_what_is_made_for_pictures_is_refused(run: Path, files: Path, tmp_path: Path) -> None:
    model = diffusion.load(run, device="cpu")
    for work in (
        lambda: model.export(tmp_path / "page.html", "web"),
        lambda: model.export(tmp_path / "folder", "diffusers"),
    ):
        with pytest.raises(UserError, match="measurements"):
            work()
    words = ["experiment=measurements", f"data.root={files}", "data.resolution=16", "data.channels=2", *SMALL]
    for more, match in (
        ("augmentation=edm", "augmentation"),
        ("threshold@sampler.threshold=clip", "limits"),
        ("objective=hybrid", "objective=simple"),
        ("features=lite0", "features=measurements"),
    ):
        with pytest.raises(UserError, match=match):
            train([*words, more, "score.n=8"], tmp_path / more)


def test_measurements_are_edited_in_their_units(run: Path, ran, tmp_path: Path) -> None:
    """What is known is kept; missing values are filled, and shown in grey; a picture of a mask may be larger."""
    model, values = diffusion.load(run, device="cpu"), np.full((2, 16, 16), 290.0, "f4")
    values[1] = 1.002e5
    near = model.edit(values, 0.02, n=2, steps=50, progress=False)
    torch.testing.assert_close(near.mean((0, 2, 3)), torch.tensor([290.0, 1.002e5]), rtol=1e-2, atol=0)
    values[0, :4] = np.nan
    np.save(tmp_path / "own.npy", values)
    mask = np.zeros((32, 32), bool)
    mask[16:] = True
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = [f"ckpt={run}", "n=2", "image=own.npy", "mask=mask.png", "sampler.steps=2", "device=cpu"]
    ran("edit", [*words, "hydra.run.dir=out"])
    with np.load("out/images.npz") as saved:
        drawn = saved["arr_0"].transpose(0, 3, 1, 2)
    assert (drawn.dtype, np.isnan(drawn).any()) == (np.float32, False)
    known = ~np.isnan(values) & ~mask[::2, ::2]
    np.testing.assert_allclose(drawn[:, known], np.broadcast_to(values[known], (2, known.sum())), rtol=1e-5)
    assert drawn[:, ~known].std() > 1
    assert (np.asarray(Image.open("out/grid.png").convert("RGB")) == 128).all(axis=2).any()
    for picture, operator, observed, said in (
        (values, "blur", False, "some of its values are missing"),
        (values[:1], "blur", False, "expected one array"),
        ("own.npy", "downsampling", True, "2×16×16; expected an array of 2×4×4"),
    ):
        with pytest.raises(UserError, match=said):
            model.solve(picture, operator, observed=observed)


def test_an_observation_of_measurements_is_read_in_their_units(run: Path) -> None:
    model, how = diffusion.load(run, device="cpu"), choice("operator", "downsampling")
    array = np.random.default_rng(0).normal([[[280]], [[1e5]]], [[[5]], [[300]]], (2, 16, 16)).astype("f4")
    small = F.avg_pool2d(torch.from_numpy(array), 4)
    made, given = (
        observation_of(how, source, model.shape, 0.0, already, 0, model.restored.kind)
        for source, already in ((array, False), (small, True))
    )
    torch.testing.assert_close(made[0].y, given[0].y, atol=1e-4, rtol=0)
    torch.testing.assert_close(given[0].y, model.restored.kind.inside(small[None]))
    assert (made[1].shape, given[1].shape) == ((2, 3, 16, 32), (1, 3, 16, 32))
    assert model.solve(array, "blur", n=1, steps=2, progress=False).dtype == torch.float32


def test_the_crps_stands_beside_that_of_the_exact_posterior(downscaling: Path) -> None:
    scores = {score.what: score for score in read_scores(downscaling) if score.metric == "crps_fine"}
    assert {*scores} == {"samples", "real", "exact"}
    assert scores["exact"].value < scores["samples"].value
    assert all(score.low < score.value < score.high for score in scores.values())
    assert scores["samples"].settings == {"members": 3}
    chart = json.loads((downscaling / "ensemble.json").read_text())["fine"]
    assert len(chart["shares"]) == 4
    assert sum(chart["shares"]) == pytest.approx(1)


def test_given_arrays_are_read_in_their_units(downscaling: Path, tmp_path: Path) -> None:
    model = diffusion.load(downscaling, device="cpu")
    coarse = np.random.default_rng(0).normal(size=(3, 1, 16, 16))
    np.save(tmp_path / "coarse.npy", coarse)
    given = model.drawing(given=str(tmp_path / "coarse.npy")).given
    assert given is not None
    figures = model.restored.facts.condition.figures
    expected = (torch.from_numpy(coarse).float() - figures["mean"][0]) / (2 * figures["std"][0])
    torch.testing.assert_close(given.rows(range(3))["channels"], expected)
    np.save(tmp_path / "small.npy", coarse[..., :8])
    with pytest.raises(UserError, match="1×16×8; expected an array of 1×16×16"):
        model.drawing(given=str(tmp_path / "small.npy"))
