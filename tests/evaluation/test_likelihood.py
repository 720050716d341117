"""Bits per dimension of a checkpoint: the same for any batch size, with their protocol and interval."""

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from networks import Affine
from scipy.stats import t
from torch import Tensor

from diffusion.checkpoint.restore import restore
from diffusion.data import Folder, Split, to_unit
from diffusion.metric.record import Reference, Score
from diffusion.metric.score import draw
from diffusion.process.denoiser import Denoiser, Thresholded, clip
from diffusion.process.grid import log_snr
from diffusion.process.likelihood import flow_likelihood, variational_bound
from diffusion.process.prediction import Eps
from diffusion.process.schedule import linear
from diffusion.process.variance import Variance, fixed_large, fixed_small
from diffusion.randomness import Streams, seed_for
from diffusion.runs.folder import read_scores
from diffusion.scoring.likelihood import bits_per_dimension

CPU = torch.device("cpu")
FIXED = {"_target_": "diffusion.process.variance.fixed_large", "_partial_": True}
GRID = partial(log_snr, sigma_min=0.01)
QUICK = ["features=lite0", "n=4", "sampler.steps=2", "baselines=[]", "device=cpu", "hydra.run.dir=out"]


@pytest.fixture
def data(photos: Path) -> Folder:
    made = Folder(root=photos, resolution=8, val=8, test=8, batch_size=4)
    made.setup()
    return made


def scored_by(denoiser: Denoiser, data: Folder, n: int, batch_size: int, kind: str = "Bound", **settings: Any) -> Score:
    likelihood = {"_target_": f"diffusion.scoring.likelihood.{kind}", **settings}
    asked: Any = SimpleNamespace(likelihood=likelihood, split="val", bits=n, batch_size=batch_size, seed=0)
    restored: Any = SimpleNamespace(denoiser=denoiser, config={"schedule": {}}, facts=None, labels={}, source={})
    return bits_per_dimension(restored, asked, data, CPU)


def first(data: Folder, split: str, n: int) -> tuple[Tensor, Streams]:
    """The images that are scored, in their order, and the streams of their noise."""
    return to_unit(draw(data.splits[split].images, n)), Streams([seed_for("bits", i) for i in range(n)])


def bound(denoise: Any, x0: Tensor, streams: Streams, steps: int, variance: Variance = fixed_small) -> Tensor:
    prior, terms = variational_bound(Thresholded(denoise, clip), x0, streams, steps, variance, GRID)
    return (prior + terms.sum(dim=1)).double()


def test_evaluate_reports_the_variational_bound_of_held_out_images(ran, two_steps, data, tmp_path) -> None:
    run = shutil.copytree(two_steps, tmp_path / "run")
    ran("evaluate", [*QUICK, "ckpt=run", "bits=7", "likelihood.steps=20", "batch_size=3", "split=test"])
    (score,) = [s for s in read_scores(Path("out")) if s.what == "network"]
    restored = restore(run / "checkpoints/last.ckpt")
    # In one batch; the command used three.
    x0, streams = first(data, "test", 7)
    bits = bound(restored.denoiser, x0, streams, 20)
    half = t.ppf(0.975, 6) * float(bits.std()) / 7**0.5
    assert score.value == pytest.approx(float(bits.mean()), rel=1e-5)
    assert score.interval == pytest.approx((float(bits.mean()) - half, float(bits.mean()) + half), rel=1e-4)
    assert score.reference == Reference("test", 7, data.splits["test"].key)
    assert score.settings == {
        "likelihood": "Bound(grid=log_snr(sigma_min=0.01, sigma_max=none), steps=20)",
        "schedule": "linear(steps=1000, first=0.0001, last=0.02)",
    }
    assert (score.n, score.metric, score.source["variance"]) == (7, "bits_per_dim", "fixed_small")
    assert score.source["network_hash"] == restored.source["network_hash"]
    assert score.higher_is_better is False
    entries = json.loads((run / "test.json").read_text())
    assert [entry["scores"]["bits_per_dim"] for entry in entries] == [score.value]


def test_the_flow_likelihood_is_a_separate_metric(data: Folder) -> None:
    denoiser = Denoiser(Affine(), linear(), Eps())
    score = scored_by(denoiser, data, 2, 2, "Flow", tolerance=1e-2)
    assert score.metric == "bits_per_dim_flow"
    bits = flow_likelihood(denoiser, *first(data, "val", 2), tolerance=1e-2)
    assert score.value == pytest.approx(float(bits.mean()), rel=1e-4)


def test_a_learned_variance_is_used_unless_another_is_chosen(data: Folder) -> None:
    denoiser = Denoiser(Affine(spread=0.0), linear(steps=10), Eps())
    learned = scored_by(denoiser, data, 6, 4, steps=10)
    assert learned.source["variance"] == "learned_range"
    other = scored_by(denoiser, data, 6, 6, steps=10, variance=FIXED)
    bits = bound(denoiser, *first(data, "val", 6), 10, fixed_large)
    assert other.value == pytest.approx(float(bits.mean()), rel=1e-6)
    assert other.source["variance"] == "fixed_large"
    assert other.protocol_key == learned.protocol_key
    assert abs(other.value - learned.value) > 0.01


def test_the_interval_is_clustered_by_photographs(data: Folder) -> None:
    """Eight tiles of two photographs count as two; tiles of one photograph have no interval."""
    network = Denoiser(Affine(), linear(steps=20), Eps())
    bits = bound(network, *first(data, "val", 8), 20)
    variance = torch.stack([bits[k::2].mean() for k in range(2)]).var().item() / 2
    for photographs, error in ((8, float(bits.std()) / 8**0.5), (2, variance**0.5), (1, None)):
        names = [f"{i % photographs}.jpg 24px at {i},0" for i in range(8)]
        order = draw(torch.arange(8), 8).tolist()
        data.splits["val"] = Split(data.splits["val"].images, [names[order.index(i)] for i in range(8)])
        score = scored_by(network, data, 8, 8, steps=20)
        assert score.error == (error if error is None else pytest.approx(error, rel=1e-4))
        assert (score.interval is None) is (error is None)
