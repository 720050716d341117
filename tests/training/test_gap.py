"""The gap through training: nothing at the start, plain where a few images are learnt by heart, and said once."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from diffusion.report.metrics import read_metrics
from diffusion.training.gap import OverfittingNotice


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """32 pictures of random rows: nothing that one has in common with another helps to denoise it."""
    folder = tmp_path / "stripes"
    folder.mkdir()
    for i in range(32):
        rows = torch.randint(0, 2, (8, 1, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)) * 255
        Image.fromarray(rows.expand(8, 8, 3).numpy()).save(folder / f"{i}.png")
    return folder


def test_the_gap_grows_where_16_images_are_learnt_by_heart(command, tiny, stripes, tmp_path):
    overfit = [
        f"data.root={stripes}", "data.val=16", "data.test=0", "data.flip=false", "data.batch_size=16",
        "validation.draws=8", "optimizer.lr=3e-3", "ema.decay=0.9", "model.channels=[32,64]",
        "trainer.max_epochs=100", "trainer.check_val_every_n_epoch=50", "trainer.log_every_n_steps=50",
    ]  # fmt: skip
    status, out, err = command("train", [*tiny, *overfit, "hydra.run.dir=run"])
    assert status == 0, out + err
    metrics = read_metrics(tmp_path / "run/metrics.csv")
    gap, error = metrics["gap/mse"].value, metrics["gap/se"].value
    assert gap[-1] > 4 * error[-1]  # from nothing at the start, as the next test has it
    assert {"gap/se_raw", "gap/mse_bin9", "gap/se_bin9_raw"} <= metrics.keys()
    assert "denoising MSE: " in out
    assert f"gap {gap[-1]:+.5f}" in out
    said = [line for line in (out + err).splitlines() if "over-fitting has started" in line]
    assert len(said) == 1
    assert "over-fitting has started" in (tmp_path / "run/train.log").read_text()
    assert (tmp_path / "run/figures/gap.png").is_file()


def test_a_fresh_network_has_no_gap(command, tiny, tmp_path):
    still = ["optimizer.lr=1e-30", "trainer.max_steps=2", "optimizer.weight_decay=0"]
    status, out, err = command("train", [*tiny, *still, "hydra.run.dir=run"])
    assert status == 0, out + err
    metrics = read_metrics(tmp_path / "run/metrics.csv")
    # Its output is zero, so its error is that of the noise alone, which the two sets share.
    assert metrics["gap/mse"].value[-1] == pytest.approx(0.0, abs=1e-7)
    assert metrics["gap/se"].value[-1] == pytest.approx(0.0, abs=1e-7)
    assert "over-fitting" not in out + err


def trainer(gap: float, error: float) -> SimpleNamespace:
    logged = {"gap/mse": torch.tensor(gap), "gap/se": torch.tensor(error)}
    return SimpleNamespace(sanity_checking=False, is_global_zero=True, global_step=7, logged_metrics=logged)


def test_the_notice_needs_three_standard_errors_and_comes_once(caplog):
    notice = OverfittingNotice()
    for gap, error, lines in ((0.2, 0.1, 0), (-1.0, 0.1, 0), (float("nan"), 0.1, 0), (0.4, 0.1, 1), (0.9, 0.1, 1)):
        notice.on_validation_end(trainer(gap, error), None)
        assert len(caplog.records) == lines
    resumed = OverfittingNotice()
    resumed.load_state_dict(notice.state_dict())
    resumed.on_validation_end(trainer(0.9, 0.1), None)
    assert len(caplog.records) == 1
