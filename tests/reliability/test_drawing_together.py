"""Samples and scores are the same with any number of processes, and processes that draw live and die together."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion.base.pixels import tiles
from diffusion.runs.folder import read_scores

pytestmark = pytest.mark.reliability
WORDS = ["device=cpu", "batch_size=2", "sampler.steps=3", "n=7"]


def files(folder: Path) -> dict[str, bytes]:
    """The output files."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".png", ".gif", ".npz")}


def test_two_processes_draw_the_bytes_and_the_scores_of_one(command, two_steps, tmp_path):
    study = [f"ckpt={two_steps}", *WORDS[:2], "n=7", "samplers=[ddim,heun]", "nfe=[4]", "features=lite0"]
    scores = []
    for devices in (1, 2):
        how = [f"ckpt={two_steps}", *WORDS, f"devices={devices}", f"hydra.run.dir=of-{devices}"]
        status, out, err = command("sample", [*how, "trajectory=true"])
        assert (status, err) == (0, ""), out
        assert ("the first of 2 processes" in out) == (devices == 2)
        status, out, err = command("study", ["sampler", *study, *how[-2:-1], f"hydra.run.dir=study-{devices}"])
        assert (status, err) == (0, ""), out
        scores.append([(s.metric, s.what, s.value, s.n) for s in read_scores(tmp_path / f"study-{devices}")])
    assert files(tmp_path / "of-1") == files(tmp_path / "of-2")
    assert scores[0] == scores[1]
    assert not [*tmp_path.glob("*/.drawn")]


@pytest.mark.parametrize(("sampler", "status"), [("Dying", 1), ("Failing", 2)])
def test_a_dying_process_ends_all_with_one_line_and_sampling_goes_on(command, two_steps, tmp_path, sampler, status):
    words = [f"ckpt={two_steps}", *WORDS, f"sampler._target_=doubles.{sampler}"]
    ended, _, err = command("sample", [*words, "devices=2", "hydra.run.dir=out"])
    assert (ended, err.count("\n")) == (status, 1), err
    for folder in ("out", "whole"):  # the first one goes on, in one process
        assert command("sample", [*words, "devices=1", f"hydra.run.dir={folder}"])[0] == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_the_processes_of_a_run_share_the_drawing_of_final_samples(ran, tiny, tmp_path):
    last = ["samples.n=7", "score.n=5", "score.batch_size=2", "score.baselines=[]", "features=lite0"]
    words = [*tiny, *last, "data.batch_size=2", "trainer.max_steps=2", "trainer.devices=2", "hydra.run.dir=run"]
    ran("train", words)
    assert not (tmp_path / "run/samples/.drawn").exists()
    ran("sample", ["ckpt=run", "device=cpu", "batch_size=2", "n=7", "hydra.run.dir=alone"])
    alone = np.load(tmp_path / "alone/images.npz")["arr_0"]
    shown = np.stack(tiles(Image.open(tmp_path / "run/samples/final.png")))  # enlarged
    scale = shown.shape[1] // 8
    assert np.array_equal(shown[:, ::scale, ::scale], alone)
    assert {(score.what, score.n) for score in read_scores(tmp_path / "run")} == {("samples", 5)}
