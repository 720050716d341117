"""Repeated sweeps of evaluations: what is complete is not scored again, and what has changed is."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from diffusion.evaluation.team import Team
from diffusion.runs.folder import read_scores
from tests.support.composing import train

SCORED = ["features=lite0", "baselines=[]", "batch_size=4", "device=cpu", "sampler.steps=2"]


@pytest.fixture
def evaluate(command, tiny: list[str], tmp_path: Path):
    """`evaluate(overrides)` scores RUN in a sweep of one job, in SWEEP/0, and returns the output."""
    train([*tiny, "trainer.max_steps=1", "samples.n=0"], tmp_path / "run")

    def run(overrides: Sequence[str] = ()) -> str:
        words = ["-m", "ckpt=run", "n=8", *SCORED, "hydra.sweep.dir=sweep", *overrides]
        status, out, err = command("evaluate", words)
        assert status == 0, out + err
        return out

    return run


def steps_scored(folder: str = "sweep/0") -> list[int]:
    return [score.source["step"] for score in read_scores(Path(folder)) if score.metric == "fd_lite0"]


def test_an_evaluation_is_complete_only_for_the_checkpoint_that_it_scored(evaluate, tiny, tmp_path: Path) -> None:
    """Also if the run saved during the evaluation, so that the scores are newer than the file."""
    evaluate()
    assert "sweep/0 is already complete" in evaluate()
    train([*tiny, "trainer.max_steps=2", "samples.n=0", "ckpt=run"], tmp_path / "run")
    saved = Path("sweep/0/scores.json").stat().st_mtime - 60
    os.utime("run/checkpoints/last.ckpt", (saved, saved))
    assert "is already complete" not in evaluate()
    assert steps_scored() == [1, 2]
    assert "sweep/0 is already complete" in evaluate()
    Path("sweep/0/scores.json").write_text("")
    assert "is already complete" not in evaluate()
    assert steps_scored() == [2]


def test_a_killed_evaluation_whose_checkpoint_has_changed_starts_again(evaluate, tiny, tmp_path, monkeypatch) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Team, "draw", kill)
        with pytest.raises(Killed):
            evaluate()
    train([*tiny, "trainer.max_steps=2", "samples.n=0", "ckpt=run"], tmp_path / "run")
    out = evaluate()
    assert out.count("sweep/0/drawn.bin: contains part of other images; removed, and all are drawn again\n") == 1
    assert steps_scored() == [2]
    assert not Path("sweep/0/drawn.bin").exists()


def test_an_evaluation_is_complete_only_for_the_worse_model_that_guided_it(evaluate, tiny, tmp_path: Path) -> None:
    """A worse model that has been deleted since leaves it complete."""
    guided = ["guidance=auto", "guidance.ckpt=worse"]
    train([*tiny, "trainer.max_steps=1", "samples.n=0", "seed=1"], tmp_path / "worse")
    evaluate(guided)
    assert "sweep/0 is already complete" in evaluate(guided)
    train([*tiny, "trainer.max_steps=2", "samples.n=0", "ckpt=worse"], tmp_path / "worse")
    assert "is already complete" not in evaluate(guided)
    shutil.rmtree("worse")
    assert "sweep/0 is already complete" in evaluate(guided)
