"""The gap during training: zero at the start, large where a few images are memorized, and reported once."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from diffusion.runs.metrics import read_metrics
from diffusion.training.module import Diffusion
from diffusion.training.overfitting import OverfittingNotice, print_gap


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """32 images of random rows: one image does not help to denoise another."""
    folder = tmp_path / "stripes"
    folder.mkdir()
    for i in range(32):
        rows = torch.randint(0, 2, (8, 1, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)) * 255
        Image.fromarray(rows.expand(8, 8, 3).numpy()).save(folder / f"{i}.png")
    return folder


@pytest.mark.whole_report
def test_the_gap_grows_when_16_images_are_memorized(command, tiny, stripes, tmp_path):
    overfit = [
        f"data.root={stripes}", "data.val=16", "data.test=0", "data.flip=false", "data.batch_size=16",
        "validation.draws=8", "optimizer.lr=3e-3", "ema.decay=0.9", "model.channels=[32,64]",
        "trainer.max_epochs=100", "trainer.check_val_every_n_epoch=20", "trainer.log_every_n_steps=50",
    ]  # fmt: skip
    status, out, err = command("train", [*tiny, *overfit, "hydra.run.dir=run"])
    assert status == 0, out + err
    metrics = read_metrics(tmp_path / "run/metrics.csv")
    gap, error = metrics["gap/mse"].value, metrics["gap/se"].value
    assert gap[-1] > 4 * error[-1]  # it is zero at the start: see the next test
    assert {"gap/se_raw", "gap/mse_bin9", "gap/half_bin9_raw"} <= metrics.keys()
    assert "denoising MSE: " in out
    assert f"gap {gap[-1]:+.5f}" in out
    assert (out + err).count("over-fitting has started") == 1
    assert "over-fitting has started" in (tmp_path / "run/train.log").read_text()
    assert (tmp_path / "run/figures/gap.png").is_file()


def test_a_fresh_network_has_no_gap(command, tiny, tmp_path):
    still = ["optimizer.lr=1e-30", "trainer.max_steps=2", "optimizer.weight_decay=0"]
    status, out, err = command("train", [*tiny, *still, "hydra.run.dir=run"])
    assert status == 0, out + err
    metrics = read_metrics(tmp_path / "run/metrics.csv")
    # Its output is zero, so its error is that of the noise alone, the same for both sets.
    assert metrics["gap/mse"].value[-1] == pytest.approx(0.0, abs=1e-7)
    assert metrics["gap/se"].value[-1] == pytest.approx(0.0, abs=1e-7)
    assert "over-fitting" not in out + err


TRAINER = SimpleNamespace(is_global_zero=True, global_step=7)


def validated(**differences: list[float]) -> Diffusion:
    """A module after a validation with these d_i, each repeated eight times if there are several."""
    module = Diffusion.__new__(Diffusion)
    nn.Module.__init__(module)
    several = {weights: d * 8 if len(d) > 1 else d for weights, d in differences.items()}
    module.differences = {weights: torch.tensor(d, dtype=torch.float64) for weights, d in several.items()}
    module.clusters = None
    return module


@pytest.mark.parametrize(
    ("gaps", "noticed"),
    [
        ([[0.9, 1.0, 1.1]], False),  # harder images: there is a gap from the start
        ([[0.9, 1.0, 1.1], [0.5, 0.6, 0.7]], False),  # it falls, as both errors do
        ([[0.9, 1.0, 1.1], [0.5, 0.6, 0.7], [0.61, 0.71, 0.82]], True),  # it rises
        ([[-0.9, -1.0, -1.1], [-0.5, -0.6, -0.7]], False),  # easier images: it rises to zero, as both errors fall
        ([[-0.1, 0.0, 0.1], [-0.6, 0.5, 1.7]], False),  # by chance
        ([[0.0, 0.1, -0.1], [0.3, 0.4, 0.2]], True),
        ([[0.0, 0.1, -0.1], [0.3, 0.4, 0.2], [0.9, 0.9, 0.8]], True),
        ([[0.0], [0.5]], False),  # one pair has no error
        ([[0.0, 0.1, -0.1], [0.3, 0.4, 0.2, 0.3]], False),  # resumed with other held-out images: no common pairs
    ],
)
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_the_notice_requires_a_rising_gap(gaps, noticed, weights):
    notice = OverfittingNotice()
    for gap in gaps:
        resumed = OverfittingNotice()
        resumed.load_state_dict(notice.state_dict())
        for each in (notice, resumed):
            each.on_validation_end(TRAINER, validated(**{weights: gap}))
    assert notice.said == resumed.said is noticed


def test_the_notice_is_printed_once_and_names_the_weights(caplog):
    notice = OverfittingNotice()
    for gap in ([0.0, 0.1, -0.1], [0.3, 0.4, 0.2], [0.9, 0.9, 0.8]):
        notice.on_validation_end(TRAINER, validated(ema=[0.0, 0.1, -0.1], raw=gap))
    (record,) = caplog.records
    assert record.getMessage().startswith("step 7: over-fitting has started: the error of the raw weights")
    resumed = OverfittingNotice()
    resumed.load_state_dict(notice.state_dict())
    resumed.on_validation_end(TRAINER, validated(raw=[2.0, 2.1, 1.9]))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("photographs", [6, 24])
def test_the_notice_counts_photographs_and_not_tiles(photographs):
    """A rise of more than three standard errors can be chance with 6 photographs, but not with 24."""
    gaps = torch.tensor([0.0, 0.0, 0.0, 0.1, 0.1, 0.1]).repeat(photographs // 6).double()
    notice = OverfittingNotice()
    for level in (0.0, 1.0):
        module = validated(raw=[0.0])
        module.differences = {"raw": (level * (gaps + 0.04)).repeat(10)}
        module.clusters = torch.arange(photographs).repeat(10)[None]
        notice.on_validation_end(TRAINER, module)
    assert notice.said is (photographs == 24)


def test_tiles_of_one_photograph_are_one_cluster(command, tiny, photos, tmp_path, monkeypatch):
    (tmp_path / "tiles").mkdir()
    for i, photo in enumerate(sorted(photos.iterdir())):
        shutil.copy(photo, tmp_path / f"tiles/{'abcde'[i % 5]}.jpg 24px at {i},0")  # the names of bundled tiles
    seen = []
    monkeypatch.setattr(Diffusion, "on_validation_end", lambda self: seen.append(self.clusters), raising=False)
    overrides = ["data.root=tiles", "data.val=12", "trainer.max_steps=1", "hydra.run.dir=run"]
    status, out, err = command("train", [*tiny, *overrides])
    assert status == 0, out + err
    clusters = seen[-1]
    assert clusters.shape == (2, 12)
    assert [len(each.unique()) for each in clusters] == [5, 5]


def test_one_validation_image_is_enough_to_train(command, tiny):
    status, out, err = command("train", [*tiny, "data.val=1", "trainer.max_epochs=3"])
    assert status == 0, out + err
    assert "nan" not in out


def test_the_gap_of_one_image_is_printed_without_an_interval(capsys) -> None:
    print_gap({"val/mse": 0.5, "fit/mse": 0.25, "gap/mse": 0.25, "gap/half": float("nan")})
    assert capsys.readouterr().out.strip().endswith("gap +0.25000")
