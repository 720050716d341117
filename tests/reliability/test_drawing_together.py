"""Samples are the same bytes with any number of processes, and processes that draw samples live and die together."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from forked import train
from PIL import Image

from diffusion.report.images import tiles
from diffusion.runs.folder import read_scores

pytestmark = pytest.mark.reliability
WORDS = ["ckpt=run", "device=cpu", "batch_size=2", "sampler.steps=3"]


@pytest.fixture
def run(command, tiny: list[str], tmp_path: Path) -> Path:
    status, out, err = command("train", [*tiny, "trainer.max_steps=2", "samples.n=0", "hydra.run.dir=run"])
    assert status == 0, out + err
    return tmp_path / "run"


def files(folder: Path) -> dict[str, bytes]:
    """The output files."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".png", ".gif", ".npz")}


@pytest.mark.parametrize("n", [1, 7])
def test_two_processes_draw_the_same_bytes_as_one(command, run, tmp_path, figure, n):
    for devices in (1, 2):
        words = [*WORDS, f"n={n}", "trajectory=true", f"devices={devices}", f"hydra.run.dir=of-{devices}"]
        status, out, err = command("sample", words)
        assert (status, err) == (0, ""), out
        assert ("the first of 2 processes" in out, "only 1 batch to share" in out) == (
            (devices, n) == (2, 7),
            (devices, n) == (2, 1),
        )
    one, two = (files(tmp_path / f"of-{devices}") for devices in (1, 2))
    assert len(one) == n + 4
    assert one == two
    assert not [*tmp_path.glob("of-*/drawn*")]
    figure(f"{n} samples of two processes", "the bytes of one")


def test_scores_and_studies_do_not_depend_on_the_number_of_processes(command, run, tmp_path):
    scored = ["n=7", "features=lite0", "split=val"]
    names = {"evaluate": [*WORDS], "study": ["sampler", *WORDS[:3], "samplers=[ddim,heun]", "nfe=[4]"]}
    for name, words in names.items():
        values = []
        for devices in (1, 2):
            folder = tmp_path / f"{name}-{devices}"
            more = [*scored, f"devices={devices}", f"hydra.run.dir={folder}"]
            status, out, err = command(name, [*words, *more])
            assert (status, err) == (0, ""), out
            assert not [*folder.glob("drawn*")]
            values.append([(s.metric, s.what, s.value, s.n) for s in read_scores(folder)])
        assert values[0] == values[1]
        assert len(values[0]) > 4


@pytest.mark.parametrize(
    ("sampler", "status", "line"),
    [
        ("Dying", 1, "a sampling process: killed by SIGKILL (out of memory?); "),
        ("Failing", 2, "error: nothing can be drawn here\n"),
    ],
)
def test_a_dying_process_ends_sampling_with_one_line_and_sampling_can_continue(
    command, run, tmp_path, sampler, status, line
):
    words = [*WORDS, "n=7", f"sampler._target_=doubles.{sampler}"]
    ended, _, err = command("sample", [*words, "devices=2", "hydra.run.dir=out"])
    assert (ended, err.count("\n")) == (status, 1), err
    assert line in err
    assert ("of 7 images are kept in" in err) == (sampler == "Dying")
    assert not multiprocessing.active_children()
    for folder in ("out", "whole"):  # the first continues, in one process
        assert command("sample", [*words, "devices=1", f"hydra.run.dir={folder}"])[0] == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_the_processes_of_a_run_share_the_drawing_of_final_samples(command, tiny, tmp_path):
    last = ["samples.n=7", "score.n=5", "score.batch_size=2", "score.baselines=[untrained]", "features=lite0"]
    words = [*tiny, *last, "data.batch_size=2", "trainer.max_steps=2", "trainer.devices=2", "hydra.run.dir=run"]
    status, out, err = command("train", words)
    assert status == 0, out + err
    assert not [*(tmp_path / "run/samples").glob("*.bin")]
    status, out, err = command("sample", [*WORDS[:3], "n=7", "seed=0", "hydra.run.dir=alone"])
    assert status == 0, out + err
    alone = np.load(tmp_path / "alone/images.npz")["images"]
    shown = np.stack(tiles(Image.open(tmp_path / "run/samples/final.png")))  # enlarged
    scale = shown.shape[1] // 8
    assert np.array_equal(shown[:, ::scale, ::scale], alone)
    assert {(score.what, score.n) for score in read_scores(tmp_path / "run")} == {("samples", 5), ("untrained", 5)}


def test_a_run_resumes_after_a_process_dies_while_drawing_final_samples(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = [*tiny, "samples.n=7", "score.batch_size=2", "data.batch_size=2", "trainer.max_steps=2"]
    words = [*common, "trainer.devices=2", "hydra.run.dir=run", "sampler._target_=doubles.Dying"]
    assert train(words, tmp_path / "log") == 1
    said = (tmp_path / "log").read_text()
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "of the run was killed by SIGKILL; to resume: python -m diffusion.train hydra.run.dir=" in line
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "failed"
    held = (tmp_path / "run/samples/samples.bin").read_bytes()
    assert held[-4:] == b"\1\0\1\0"  # rank 0 has drawn its share
    assert train([*words, "ckpt=auto", "trainer.devices=1", "data.batch_size=4"], tmp_path / "log") == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "complete"
    assert not (tmp_path / "run/samples/samples.bin").exists()
