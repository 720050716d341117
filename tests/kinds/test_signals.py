"""Signals: their files, pictures and scores; a model from a table to a forecast, which is that of the exact law."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composing import train
from scipy.io import wavfile

import diffusion
from diffusion.data import Series
from diffusion.errors import UserError
from diffusion.kinds.signals import HEIGHT, WIDTH, Signals
from diffusion.metric.measurements import Eyes
from diffusion.process.sampler import DDIM
from diffusion.sampling.drawing import Drawing
from diffusion.sampling.edits import Filling

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.normal(20, 3, (400, 2)).astype("f4")


def table(file: Path, first: str = "", values: np.ndarray = VALUES) -> Path:
    """A table with a row for each time; `first`: a column of times before the values."""
    times = {"time": "{0}.5", "date": "2026-01-{0}"}.get(first, "")
    with file.open("w", newline="") as stream:
        write = csv.writer(stream)
        write.writerow([first] * bool(first) + ["warm", "cold"][: values.shape[1]])
        for i, row in enumerate(values):
            write.writerow([times.format(i)] * bool(first) + [*map(str, row)])
    return file


def loaded(root: Path, **more: Any) -> Series:
    data = Series(
        root=root, kind=Signals(rate=8000), **{"resolution": 16, "channels": None, "val": 4, "test": 4} | more
    )
    data.setup()
    return data


@pytest.mark.parametrize("first", ["", "time", "date"])
def test_a_table_is_cut_into_windows_of_its_columns_without_times(first: str, tmp_path: Path) -> None:
    data = loaded(table(tmp_path / "a.csv", first))
    assert (data.kind.names, data.shape) == (["warm", "cold"], (2, 16))
    found = {each.numpy().tobytes() for split in data.splits.values() for each in split.images}
    assert found == {VALUES[i : i + 16].T.tobytes() for i in range(0, 400, 16)}
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 17, "val": 4, "test": 4}


def test_windows_of_a_file_are_in_one_split_and_an_empty_cell_is_missing(tmp_path: Path) -> None:
    for i in range(12):
        np.save(tmp_path / f"{i}.npy", RANDOM.normal(size=(1, 40)))
    table(tmp_path / "12.csv", "time", np.where(np.arange(40)[:, None] == 3, np.nan, np.float32(1.5)))
    data = loaded(tmp_path, val=1, test=1)
    sources = [{*split.sources} for split in data.splits.values()]
    assert len(set.union(*sources)) == sum(map(len, sources)) == 13
    assert data.missing
    assert {name.partition(" from ")[2] for split in data.splits.values() for name in split.names} == {"0", "16"}


def test_sounds_are_read_and_written_with_their_rate(tmp_path: Path) -> None:
    kind, wave = Signals([0.0], [1.0], ["1"], [""], rate=8000), np.array([0, 16384, -32768, 100], np.int16)
    wavfile.write(tmp_path / "a.wav", 8000, wave)
    sound = kind.read(tmp_path / "a.wav", (1, 6))
    assert sound[0, :4].tolist() == (wave / 32768).tolist()
    assert sound[0, 4:].isnan().all()  # a shorter one ends with missing values
    kind.save(sound, tmp_path / "b", ".wav")
    assert wavfile.read(tmp_path / "b.wav")[0] == 8000
    wavfile.write(tmp_path / "c.wav", 44100, wave)
    with pytest.raises(UserError, match=r"44100 values per second, but data\.kind\.rate=8000"):
        kind.sound(tmp_path / "c.wav")


@pytest.mark.parametrize(
    ("source", "mask", "words"),
    [
        (np.zeros((1, 9)), "4:", "image: got 1×9 numbers; expected 1×8, or a shorter series"),
        (np.zeros((2, 8)), "4:", "image: got 2×8 numbers"),
        ("nothing.csv", "4:", "image: nothing.csv not found|image: .*nothing.csv"),
        (np.zeros((1, 8)), "4", "mask=4: expected the times to fill"),
        (np.zeros((1, 8)), "a.png", "mask=a.png: expected the times to fill"),
    ],
)
def test_what_is_no_signal_and_no_time_is_refused(source: Any, mask: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Signals([0.0], [1.0], ["1"], [""]).part(source, mask, (1, 8))


def test_a_picture_is_a_line_that_is_broken_where_values_are_missing() -> None:
    kind, x = Signals([0.0], [1.0], ["1"], [""]), torch.zeros(1, 1, 64)
    x[0, 0, 32:] = 3.0
    x[0, 0, 20:30] = torch.nan
    ink = (kind.pictures(x)[0] < 200).any(dim=0)
    assert ink.shape == (HEIGHT, WIDTH)
    assert ink[HEIGHT // 2 - 2 : HEIGHT // 2 + 2, :50].any(dim=0).all()
    assert not ink[:, 60:86].any()
    assert ink[:2, 100:].any(dim=0).all()


def test_eyes_tell_waves_from_noise_of_the_same_values() -> None:
    """By the spectrum and the autocorrelations, and not by the values."""
    generator, data = torch.Generator().manual_seed(0), Series(resolution=32, train=300, held_out=300)
    data.setup()
    kind, real = data.kind, data.splits["val"].images
    noise = kind.std[0] * torch.randn(real.shape, generator=generator)
    (eyes := Eyes()).suit(kind, data.shape)
    seen = [eyes.seen(x) for x in (data.splits["train"].images, real, noise)]
    for name in ("spectrum", "autocorrelations", "values"):
        same, other = ((seen[i][name].mean(0) - seen[0][name].mean(0)).abs() / seen[0][name].std(0) for i in (1, 2))
        assert same.max() < 0.4, name
        assert name == "values" or other.max() > 1, name


def test_a_filling_is_the_forecast_of_the_exact_law() -> None:
    """Its mean and its spread, for the best denoiser: what remains is the error of 200 draws and of the method."""
    data = Series(resolution=16, train=8, held_out=4, coefficients=[0.9])
    data.setup()
    denoiser, past = data.truth.exact(diffusion.process.schedule.sigmoid(1000)), 10
    x = data.splits["val"].images[0]
    drawing = Drawing(DDIM(60), data.shape, 0, kind=data.kind)
    method = {"_target_": "diffusion.process.editing.RePaint", "_partial_": True, "passes": 8}
    edit = Filling(x.numpy(), f"{past}:", method).edited(drawing)
    drawn = edit.drawing(denoiser, 200, torch.device("cpu"), 200)[:, 0]
    assert torch.allclose(drawn[:, :past], x[:, :past], atol=1e-5)
    known = torch.arange(16) < past
    mean, covariance = data.process.series(16).given(x[:, :past], known)
    spread = covariance.diagonal().sqrt()
    assert ((drawn[:, past:].mean(dim=0) - mean[0]).abs() / spread).max() < 0.3
    assert (drawn[:, past:].std(dim=0) / spread - 1).abs().max() < 0.25


def test_a_model_of_a_table_draws_fills_and_scores(ran: Any, tmp_path: Path) -> None:
    words = [
        "experiment=signals", f"data.root={table(tmp_path / 'own.csv', 'date')}", "data.resolution=16", "data.val=6",
        "data.test=6", "data.batch_size=4", "model.channels=[8,16]", "model.attention=[false,true]", "model.groups=4",
        "trainer.max_steps=2", "trainer.val_check_interval=2", "samples.n=4", "score.n=8", "sampler.steps=2",
        "trainer.accelerator=cpu", "least_interval=1",
    ]  # fmt: skip
    train(words, run := tmp_path / "run")
    assert (run / "report.html").is_file()
    scores = {record["metric"] for record in json.loads((run / "scores.json").read_text())}
    assert {"energy_spectrum", "energy_autocorrelations", "energy_values"} <= scores
    short = table(tmp_path / "short.csv", "date", VALUES[:10])
    printed = ran("edit", [f"ckpt={run}", f"image={short}", "mask=10:", "n=2", "device=cpu", "hydra.run.dir=filled"])
    assert "images.npz (float32, N×L×C)" in printed
    with (tmp_path / "filled/images/0.csv").open() as file:
        rows = [*csv.reader(file)]
    assert rows[0] == ["warm", "cold"]
    assert np.allclose(np.array(rows[1:11], float), VALUES[:10], rtol=1e-5)
    assert len(rows) == 17
    model = diffusion.load(run, device="cpu")
    assert model.sample(3, progress=False).shape == (3, 2, 16)
    assert "energy_spectrum" in model.score(8, progress=False)
