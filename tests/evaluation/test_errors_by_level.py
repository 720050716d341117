"""Where the loss is: a network that is the best denoiser is at the floor, and a run measures what a study measures."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusion.data.module import Split
from diffusion.findings.underfitting import sentence
from diffusion.kinds.pixels import Pixels
from diffusion.process import floor
from diffusion.process.denoiser import Denoiser
from diffusion.process.prediction import X0
from diffusion.process.schedule import VP
from diffusion.report.noise_levels import floor_blocks
from diffusion.runs.folder import measures
from diffusion.scoring.errors_by_level import measure

g = torch.Generator().manual_seed(0)
SHAPE = (1, 4, 4)


def split(n: int) -> Split:
    return Split(torch.randint(256, (n, *SHAPE), generator=g).to(torch.uint8), [f"{i}.png" for i in range(n)])


class Best(nn.Module):
    """E[x0 | x_t] of the training images, from the network's input x_t and label 1000·t − 1, by brute force."""

    def __init__(self, images: Tensor):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.known = images.flatten(1).double() / 127.5 - 1

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        alpha, sigma = VP()((label.double() + 1) / 1000)
        distance = (x.flatten(1).double()[:, None] - alpha[:, None, None] * self.known).square().sum(dim=2)
        weights = torch.softmax(-distance / (2 * sigma[:, None] ** 2), dim=1)
        return (self.scale * (weights @ self.known)).view_as(x).to(x.dtype)


def measured(folder: Path, data: Any, scale: float) -> list[dict[str, float]]:
    network = Best(data.splits["train"].images)
    network.classes = 0 if data.splits["train"].labels is None else 40
    network.scale.data.fill_(scale)
    measure(Denoiser(network, VP(), X0()), None, data, folder)
    with (folder / "floor.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_the_best_denoiser_is_at_the_floor_and_memorizes(tmp_path) -> None:
    data: Any = SimpleNamespace(splits={"train": split(200), "val": split(200)}, flip=False, kind=Pixels())
    rows = measured(tmp_path, data, 1.0)
    assert len(rows) == 13
    assert all(row["noisy"] == row["images"] == 200 and row["weight"] == 1 for row in rows)  # of x0, without weights
    assert all(abs(row["above"]) < 1e-6 for row in rows)
    assert all(abs(row["train"] - row["floor"]) <= row["train_half"] for row in rows if row["floor"] > 0.01)
    assert rows[0]["floor"] < 1e-9  # at little noise, each image is found again
    assert 0.32 < rows[-1]["floor"] < 0.35  # at much noise, the variance of the images: 1/3
    assert all(row["best"] > 0.2 for row in rows)  # without the image, all others are far from it
    assert sentence(rows).startswith("At no noise level is it shown to be under-fitted; at noise levels 0.02 to ")


def test_a_denoiser_with_too_much_contrast_is_under_fitted_where_the_noise_hides_the_images(tmp_path) -> None:
    """At 20, the best denoiser's answer is nearly the mean image. One of 1.5 times the values has a higher error."""
    data: Any = SimpleNamespace(splits={"train": split(200), "val": split(200)}, flip=False, kind=Pixels())
    for part in data.splits.values():
        part.images[:] = part.images // 2 + 100  # the mean image is not 0
    rows = measured(tmp_path, data, 1.5)
    last = rows[-1]
    mean = data.splits["train"].images.double() / 127.5 - 1
    assert last["above"] == pytest.approx(0.25 * float(mean.mean(dim=0).square().mean()), rel=0.2)
    assert last["behind"] > last["behind_half"]
    assert " to 20 it is under-fitted" in sentence(rows)


@pytest.mark.parametrize("exact", [10_000, 10])  # the second: means of draws
def test_an_image_that_is_the_only_one_of_its_class_is_not_compared(exact, tmp_path, monkeypatch) -> None:
    """An all-zero network is under-fitted, whatever class is added. With such classes alone, it cannot be told."""
    monkeypatch.setattr(floor, "EXACT", exact)
    data: Any = SimpleNamespace(splits={"train": split(40), "val": split(40)}, flip=True, kind=Pixels())
    for part in data.splits.values():
        part.images[:] = part.images // 2 + 100
    for labels, begins in (torch.arange(40).clamp(max=1), "At noise level"), (torch.arange(40), "With so few photo"):
        data.splits = {name: replace(part, labels=labels) for name, part in data.splits.items()}
        rows = measured(tmp_path, data, 0.0)
        said = str(floor_blocks(tmp_path)[0])
        assert said.startswith(begins)
        assert ("20 it is under-fitted: its error" in said) == (rows[0]["compared"] == 39)
        assert f"judged by {rows[0]['compared']:.0f} of 40 images: no other photograph has the label of" in said


def test_a_run_measures_at_its_end_what_a_study_of_it_measures(command, ran, tiny, tmp_path) -> None:
    words = [*tiny, "trainer.max_steps=1", "samples.n=0", "validation.floor=true", "hydra.run.dir=run"]
    out = ran("train", words)
    status, again, err = command("study", ["floor", "ckpt=run", "device=cpu", "hydra.run.dir=study"])
    assert status == 0, again + err
    assert "under-fitted" in out
    assert "under-fitted" in again
    first, second = ((tmp_path / name / "floor.csv").read_text() for name in ("run", "study"))
    assert first == second
    assert (tmp_path / "study/report.html").is_file()
    assert (tmp_path / "study/figures/floor.png").is_file()
    assert not measures("validation.floor")  # runs with it and without may be compared
    (row, *_) = csv.DictReader(first.splitlines())
    assert float(row["weight"]) == pytest.approx(float(row["level"]) ** -2, rel=1e-3)  # the loss of eps is SNR times it
