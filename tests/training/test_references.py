"""Samples scored against held-out and against training images: two metrics with different names."""

import pytest

from diffusion.report.compare import compare
from diffusion.runs.folder import Run, read_scores
from diffusion.runs.metrics import last_value


def test_a_run_scores_its_samples_against_both_splits(command, tiny, tmp_path):
    words = ["score.n=8", "score.to_train=true", "score.baselines=[real,noise]", "samples.n=0", "features=lite0"]
    status, out, err = command("train", [*tiny, *words, "trainer.max_steps=1", "hydra.run.dir=run"])
    assert status == 0, out + err
    run = tmp_path / "run"
    found = {(s.name, s.what): s for s in read_scores(run)}
    for name, n in (("fd_lite0", 8), ("train/fd_lite0", 24)):
        assert {what for other, what in found if other == name} == {"samples", "real", "noise"}
        assert found[name, "samples"].reference.n == n
        assert f"8 images against {n} of " in out
    assert found["fd_lite0", "samples"].value != found["train/fd_lite0", "samples"].value
    for key, name in (("val/fd_lite0", "fd_lite0"), ("train/fd_lite0", "train/fd_lite0")):
        assert last_value(key, run / "metrics.csv") == pytest.approx(found[name, "samples"].value)
    columns = [column.name for column in compare([Run(run)]).columns]
    assert {"fd_lite0", "train/fd_lite0"} <= {*columns}
