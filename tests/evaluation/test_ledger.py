"""The ledger of test evaluations: a second evaluation is rejected, or counted."""

import json
from pathlib import Path

import pytest

import diffusion
from diffusion.errors import UserError
from diffusion.evaluation.ledger import Ledger
from diffusion.runs.folder import read_scores


def test_a_second_test_evaluation_needs_again_and_both_are_recorded(command, tiny, tmp_path: Path) -> None:
    status, out, err = command("train", [*tiny, "trainer.max_steps=1", "hydra.run.dir=run"])
    assert status == 0, out + err
    common = ["ckpt=run/checkpoints/best.ckpt", "features=lite0", "n=6", "sampler.steps=2", "device=cpu"]

    def numbers(name: str, *words: str) -> set[int | None]:
        status, out, err = command("evaluate", [*common, *words, "baselines=[noise]", f"hydra.run.dir={name}"])
        assert status == 0, out + err
        assert ("only the first of several test scores is unbiased" in out) == ("again=true" in words)
        return {score.source.get("test_evaluation") for score in read_scores(tmp_path / name)}

    assert numbers("first", "split=test") == {1}
    assert numbers("val", "split=val") == {None}
    status, _, err = command("evaluate", [*common, "split=test", "hydra.run.dir=second"])
    when = json.loads((tmp_path / "run/test.json").read_text())[0]["when"]
    assert (status, err.count("\n")) == (2, 1)
    assert f"split=test: the test split was first evaluated for this run on {when} (step 1), 1 time so far" in err
    assert (
        "according to run/test.json; use split=val for model selection; "
        "again=true evaluates on the test split once more" in err
    )
    assert not (tmp_path / "second/scores.json").exists()
    assert numbers("third", "split=test", "again=true") == {2}
    entries = json.loads((tmp_path / "run/test.json").read_text())
    assert [entry["test_evaluation"] for entry in entries] == [1, 2]
    (distance,) = [s for s in read_scores(tmp_path / "first") if (s.metric, s.what) == ("fd_lite0", "samples")]
    assert entries[0]["scores"]["fd_lite0"] == distance.value  # not that of the noise
    assert "kid_lite0" in entries[0]["scores"]
    assert len(entries[0]["checkpoint"]["sha256"]) == 16
    assert entries[0]["code"].startswith(diffusion.__version__)
    resume = ["ckpt=run/checkpoints/last.ckpt", "trainer.max_steps=2", "hydra.run.dir=resumed"]
    status, out, err = command("train", [*tiny, *resume])
    assert status == 0, out + err
    assert (
        json.loads((tmp_path / "resumed/test.json").read_text()) == entries
    )  # the resumed run has also been evaluated


def test_test_scores_during_training_give_a_warning_and_are_all_recorded(command, tiny, tmp_path: Path) -> None:
    score = ["score.n=4", "score.every_n_epochs=1", "score.baselines=[]", "features=lite0", "sampler.steps=2"]
    status, out, err = command("train", [*tiny, *score, "score.split=test", "hydra.run.dir=run"])
    assert status == 0, out + err
    assert "warning: score.every_n_epochs with score.split=test" in out
    assert "2 times so far; only the first of several test scores is unbiased" in out
    entries = json.loads((tmp_path / "run/test.json").read_text())
    expected = [(1, 6), (2, 12), (3, 12)]
    assert [(entry["test_evaluation"], entry["step"]) for entry in entries] == expected
    assert all(entry["scores"]["fd_lite0"] > 0 for entry in entries)
    sources = [score.source for score in read_scores(tmp_path / "run") if score.metric == "fd_lite0"]
    assert [(source["test_evaluation"], source["step"]) for source in sources] == expected


def test_a_run_with_a_ledger_does_not_take_over_another(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text('[{"step": 1}]')
    (tmp_path / "other").mkdir()
    (tmp_path / "other/test.json").write_text('[{"step": 2}]')
    Ledger(tmp_path).inherit(Ledger(tmp_path / "other"))
    assert Ledger(tmp_path).evaluations() == [{"step": 1}]


@pytest.mark.parametrize("file", ["last.ckpt", "checkpoints/last.ckpt", "checkpoints/early/step-00000002.safetensors"])
def test_all_files_of_a_run_share_its_ledger(file: str, tmp_path: Path) -> None:
    assert Ledger.of(tmp_path / "run" / file).path == tmp_path / "run/test.json"


def test_a_damaged_ledger_gives_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text("{")
    with pytest.raises(UserError, match=r"test.json: not readable"):
        Ledger.of(tmp_path / "checkpoints/last.ckpt").warn()
