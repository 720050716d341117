"""Sweeps: their folders, the jobs that run again, and the scores that a search may optimize."""

import json

import pytest
import yaml
from composing import settings

from diffusion.runs import naming
from diffusion.runs.folder import is_sweep
from diffusion.runs.launch import Launch
from diffusion.runs.record import RunRecord
from diffusion.training import jobs


@pytest.mark.filterwarnings("error::UserWarning")  # runs without numbers are compared, too
def test_a_sweep_without_a_name_has_one_folder_named_after_the_model(command, tiny, tmp_path, started):
    assert command("train", ["-m", *tiny, "seed=0", "schedule=linear,cosine"])[0] == 0
    (sweep,) = (tmp_path / "outputs").glob("*/*")
    assert sweep.parent.name == "unet_tiny"
    assert sweep.name.startswith("sweep-")
    assert [RunRecord(sweep / job).state for job in ("0", "1")] == ["complete", "complete"]
    assert is_sweep(sweep)
    recorded = RunRecord(sweep / "1").content["command"]
    assert recorded[:3] == ["diffusion", "train", "data=folder"]
    assert recorded[-2:] == ["seed=0", "schedule=cosine"]


def test_only_a_complete_job_is_not_run_again(tiny, tmp_path, started):
    folder, chosen = tmp_path / "0", settings(tiny)
    folder.mkdir()

    def ckpt_of_next_job(state: str, *words: str) -> str | None:
        (folder / "run.json").write_text(json.dumps({"state": state}))
        jobs.start(chosen, Launch(folder, words, job=True))
        return yaml.safe_load((folder / "config.yaml").read_text())["ckpt"]

    jobs.start(chosen, Launch(folder, job=True))
    assert ckpt_of_next_job("died") is None  # before its first checkpoint
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/last.ckpt").touch()
    assert ckpt_of_next_job("complete") is None
    assert started == ["0", "0"]
    assert ckpt_of_next_job("interrupted") == "auto"
    assert ckpt_of_next_job("failed", "ckpt=null") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep.score=val/fid", "score.n=8", "features=lite0"], "such as val/fd_lite0"),
        (["sweep.score=val/fd_lite0"], "no scores (score.n=0)"),
    ],
)
def test_a_sweep_score_that_is_not_logged_is_refused_before_training(refused, tiny, monkeypatch, words, said):
    monkeypatch.setattr("diffusion.training.module.Diffusion.training_step", lambda *a: pytest.fail("a batch was run"))
    assert said in refused("train", [*tiny, *words])


def test_a_search_for_an_error_draws_no_samples(ran, tiny):
    words = ["score.n=null", "sweep.score=gap/mse_raw", "trainer.max_steps=2", "samples.n=0", "hydra.run.dir=run"]
    assert "no scores: 512 samples need" in ran("train", [*tiny, *words])


def test_a_job_gets_its_previous_folder_and_never_that_of_another_job(tmp_path):
    def folder(number, *words):
        naming.job_folder.cache_clear()  # as in another process
        name = naming.job_folder(tmp_path, number, words)
        (tmp_path / name / ".hydra").mkdir(exist_ok=True)
        (tmp_path / name / ".hydra/overrides.yaml").write_text(yaml.safe_dump(list(words)))
        return name

    assert [folder(i, words) for i, words in enumerate(["schedule=linear", "schedule=cosine"])] == ["0", "1"]
    assert folder(5, "schedule=cosine", "ckpt=auto") == "1"
    assert folder(0, "schedule=sigmoid") == "2"  # a grid that has grown
    assert folder(0, "schedule=linear") == "0"
    assert folder(0, "schedule=linear", "ckpt=a.ckpt") == "3"
    naming.job_folder(tmp_path, 4, ("seed=1",))  # it has not yet written its overrides
    assert naming.job_folder(tmp_path, 4, ("seed=2",)) == "5"
