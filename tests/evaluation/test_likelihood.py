"""Bits per dimension of a checkpoint: DDPM's bound for any batch size, with its protocol."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from scipy.stats import t

from diffusion.checkpoint.restore import restore
from diffusion.data import Folder, to_unit
from diffusion.data.batches import Split
from diffusion.errors import UserError
from diffusion.evaluation import likelihood
from diffusion.evaluation.cost import Blank
from diffusion.evaluation.likelihood import Bound, Flow, bits_per_dimension
from diffusion.metric.baselines import draw
from diffusion.metric.record import Reference
from diffusion.process.denoiser import Denoiser, Thresholded, clip
from diffusion.process.grid import log_snr
from diffusion.process.likelihood import flow_likelihood, variational_bound
from diffusion.process.prediction import Eps
from diffusion.process.schedule import linear
from diffusion.process.variance import Variance, fixed_large, fixed_small
from diffusion.randomness import Streams, seed_for
from diffusion.report.formatting import protocol_text
from diffusion.runs.folder import read_scores

CPU = torch.device("cpu")
GRID = partial(log_snr, sigma_min=0.01)
QUICK = ["features=lite0", "n=4", "sampler.steps=2", "baselines=[]", "device=cpu"]


@pytest.fixture
def data(photos: Path) -> Folder:
    made = Folder(photos, resolution=8, val=8, test=8, batch_size=4)
    made.prepare_data()
    made.setup()
    return made


def test_evaluate_reports_the_variational_bound_of_held_out_images(command, tiny, data: Folder, tmp_path: Path) -> None:
    run = ["trainer.max_steps=2", "schedule.steps=20", "hydra.run.dir=run"]
    status, out, err = command("train", [*tiny, *run])
    assert status == 0, out + err
    ckpt = "ckpt=run/checkpoints/last.ckpt"
    words = [ckpt, *QUICK, "bits=7", "likelihood.steps=20", "batch_size=3", "split=test", "hydra.run.dir=evaluation"]
    words.append("variance@likelihood.variance=fixed_small")  # the default: part of the model, not of the protocol
    status, out, err = command("evaluate", words)
    assert status == 0, out + err
    assert "bits per dimension: 7 images of test × 20 network evaluations: about" in out
    score = next(s for s in read_scores(tmp_path / "evaluation") if s.metric == "bits_per_dim")
    restored = restore("run/checkpoints/last.ckpt")
    # In one batch; the command used three.
    x0 = to_unit(draw(data.splits["test"].images, 7))
    streams = Streams([seed_for("bits", i) for i in range(7)])
    bits = variational_bound(Thresholded(restored.denoiser, clip), x0, streams, 20, grid=GRID).bits.double()
    assert score.value == pytest.approx(float(bits.mean()), rel=1e-5)
    half = t.ppf(0.975, 6) * float(bits.std()) / 7**0.5
    assert score.interval == pytest.approx((float(bits.mean()) - half, float(bits.mean()) + half), rel=1e-4)
    assert 0 < score.value < 30
    assert score.reference == Reference("test", 7, data.splits["test"].key)
    assert (score.n, score.what) == (7, "network")
    assert score.settings == {
        "likelihood": "Bound(grid=log_snr(sigma_min=0.01, sigma_max=none), steps=20)",
        "schedule": "linear(steps=20, first=0.0001, last=0.02)",
    }
    assert score.source["variance"] == "fixed_small"
    assert score.source["checkpoint"] == restored.source["checkpoint"]
    assert score.source["network_hash"] == restored.source["network_hash"]
    assert score.higher_is_better is False
    other = replace(score, settings={**score.settings, "schedule": "cosine(steps=20)"})
    assert score.protocol_key != other.protocol_key
    assert "likelihood=Bound(grid=log_snr(" in protocol_text(score)
    entries = json.loads((tmp_path / "run/test.json").read_text())
    assert [entry["scores"]["bits_per_dim"] for entry in entries] == [score.value]


def test_the_flow_likelihood_is_a_separate_metric(command, tiny, data: Folder, tmp_path: Path) -> None:
    status, out, err = command("train", [*tiny, "trainer.max_steps=2", "schedule=flow", "prediction=velocity",
        "timesteps@objective.timesteps=uniform", "hydra.run.dir=run"])  # fmt: skip
    assert status == 0, out + err
    ckpt = "ckpt=run/checkpoints/last.ckpt"
    words = [ckpt, *QUICK, "bits=2", "likelihood=flow", "likelihood.tolerance=1e-2", "hydra.run.dir=evaluation"]
    status, out, err = command("evaluate", words)
    assert status == 0, out + err
    assert "bits per dimension: 2 images of val × at least " in out
    score = next(s for s in read_scores(tmp_path / "evaluation") if s.metric == "bits_per_dim_flow")
    # no schedule: comparable across schedules
    assert score.settings == {"likelihood": "Flow(tolerance=0.01, lowest=0.002)"}
    assert score.higher_is_better is False
    x0, streams = to_unit(draw(data.splits["val"].images, 2)), Streams([seed_for("bits", i) for i in range(2)])
    bits = flow_likelihood(restore("run/checkpoints/last.ckpt").denoiser, x0, streams, tolerance=1e-2).bits
    assert score.value == pytest.approx(float(bits.mean()), rel=1e-4)


def test_the_printed_cost_of_the_flow_is_that_of_grey_images_with_gradients(data: Folder, monkeypatch) -> None:
    printed = []
    monkeypatch.setattr(
        likelihood, "print_estimate", lambda work, denoise, shape, n, total, *_: printed.append((work, n, total))
    )
    bits_per_dimension(network(), data, "val", 4, 4, CPU, Flow(1e-1), {})
    grey = Blank(linear(steps=20))
    flow_likelihood(grey, torch.zeros(1, 1, 1, 1), Streams([0]), tolerance=1e-1)
    work = f"bits per dimension: 4 images of val × at least {grey.calls} network evaluations with gradients"
    assert printed == [(work, 4, 4 * 3 * grey.calls)]


def test_bits_that_cannot_be_computed_are_refused_before_sampling(command, two_steps: Path, tmp_path: Path) -> None:
    """Afterwards, scores that the user has seen would not be recorded, such as those on the test split."""
    status, out, err = command("evaluate", [f"ckpt={two_steps}", *QUICK, "bits=1", "hydra.run.dir=evaluation"])
    assert status == 2
    assert "bits=1: an interval needs at least 2 images" in err
    assert not (tmp_path / "evaluation/drawn.bin").exists()
    assert "fd_lite0" not in out


class Doubled(torch.nn.Module):
    """A network that also estimates the variance."""

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, 0 * x], dim=1)


def test_a_learned_variance_is_recorded_and_too_few_images_are_refused(data: Folder) -> None:
    denoiser = Denoiser(Doubled(), linear(steps=10), Eps())
    score = bits_per_dimension(denoiser, data, "val", 6, 4, CPU, Bound(10), {})
    assert score.source["variance"] == "learned_range"
    with pytest.raises(UserError, match="bits=1: an interval needs at least 2 images"):
        bits_per_dimension(denoiser, data, "val", 1, 4, CPU, Bound(10), {})


@pytest.mark.parametrize("variance", [fixed_small, fixed_large])
def test_the_bound_can_have_another_variance(data: Folder, variance: Variance) -> None:
    denoiser = Denoiser(Doubled(), linear(steps=10), Eps())
    chosen = Bound(10, variance=partial(variance))
    score = bits_per_dimension(denoiser, data, "val", 6, 6, CPU, chosen, {})
    assert score.source["variance"] == variance.__name__
    x0, streams = to_unit(draw(data.splits["val"].images, 6)), Streams([seed_for("bits", i) for i in range(6)])
    bits = variational_bound(Thresholded(denoiser, clip), x0, streams, 10, variance, chosen.grid).bits
    assert score.value == pytest.approx(float(bits.mean()), rel=1e-6)
    learned = bits_per_dimension(denoiser, data, "val", 6, 6, CPU, Bound(10), {})
    assert score.protocol_key == learned.protocol_key
    assert abs(score.value - learned.value) > 0.01


def test_the_interval_is_clustered_by_photographs(data: Folder, capfd) -> None:
    """Eight tiles of two photographs count as two; tiles of one photograph have no interval."""
    bits = bits_of(data)
    variance = torch.stack([bits[k::2].mean() for k in range(2)]).var().item() / 2
    for photographs, error in ((8, float(bits.std()) / 8**0.5), (2, variance**0.5), (1, None)):
        names = [f"{i % photographs}.jpg 24px at {i},0" for i in range(8)]
        order = draw(torch.arange(8), 8).tolist()
        data.splits["val"] = Split(data.splits["val"].images, [names[order.index(i)] for i in range(8)])
        score = bits_per_dimension(network(), data, "val", 8, 8, CPU, Bound(20), {})
        assert score.error == (error if error is None else pytest.approx(error, rel=1e-4))
        assert (score.interval is None) is (error is None)
    assert "nan" not in capfd.readouterr().out


class Same(torch.nn.Module):
    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return x


def network() -> Denoiser:
    return Denoiser(Same(), linear(steps=20), Eps())


def bits_of(data: Folder) -> torch.Tensor:
    """The bits of each image of the validation split, in the order of evaluation."""
    x0 = to_unit(draw(data.splits["val"].images, 8))
    streams = Streams([seed_for("bits", i) for i in range(8)])
    return variational_bound(Thresholded(network(), clip), x0, streams, 20, grid=GRID).bits.double()
