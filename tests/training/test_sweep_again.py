"""The same sweep again: complete jobs do not run, stopped ones resume; another checkpoint is another job."""

import platform

import pytest
import yaml

from diffusion.runs import jobs
from diffusion.runs.naming import OVERRIDES, job_folder
from diffusion.runs.record import RunRecord


@pytest.mark.filterwarnings("error::UserWarning")  # runs without numbers are compared, too
def test_a_complete_job_is_not_run_again(command, tiny, tmp_path, monkeypatch):
    ran = []

    def start(folder, lock):
        lock.close()
        ran.append(folder.name)
        RunRecord(folder).finish("complete", result=1.0)

    monkeypatch.setattr(jobs, "wait_for_process", start)
    overrides = ["-m", *tiny, "seed=0,1", "hydra.sweep.dir=sweep"]
    assert command("train", overrides)[0] == 0
    (tmp_path / "sweep/1/run.json").unlink()
    assert command("train", [*overrides, "ckpt=auto"])[0] == 0
    assert command("train", overrides)[0] == 0
    assert ran == ["0", "1", "1"]
    for setting, again in (("limit: null", []), ("channels: 3", ["0"])):  # settings that the program did not have
        config = tmp_path / "sweep/0/config.yaml"
        text = config.read_text()
        config.write_text(text.replace(f"  {setting}\n", ""))
        assert config.read_text() != text
        del ran[:]
        assert command("train", overrides)[0] == 0
        assert ran == again


def test_checkpoints_of_other_settings_are_overwritten_only_on_request(command, tiny, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(jobs, "wait_for_process", lambda folder, lock: lock.close() or ran.append(folder.name))
    overrides = ["-m", *tiny, "seed=0,1", "hydra.sweep.dir=sweep"]
    assert command("train", overrides)[0] == 0
    record, config = RunRecord(tmp_path / "sweep/0", {"state": "complete"}), tmp_path / "sweep/0/config.yaml"
    record._replace()
    for file in ("checkpoints/last.ckpt", "samples/drawn.bin", "scores.json"):
        (tmp_path / "sweep/0" / file).parent.mkdir(exist_ok=True)
        (tmp_path / "sweep/0" / file).write_text("[]")
    config.write_text(config.read_text().replace("seed: 0", "seed: 5"))  # as if a default had changed since then
    (tmp_path / "sweep/1/run.json").unlink()
    del ran[:]
    status, _, err = command("train", overrides)
    assert status == 2
    assert "sweep/0 contains checkpoints of a run with other settings (see its config.yaml)" in err
    assert ran == ["1"]
    assert (tmp_path / "sweep/0/scores.json").exists()
    assert "seed: 5" in config.read_text()
    (tmp_path / "sweep/1/run.json").unlink()
    (tmp_path / "sweep/0/metrics.csv").write_text("step,train/loss\n0,1\n")
    assert command("train", [*overrides, "ckpt=null"])[0] == 0
    assert "seed: 0" in config.read_text()
    assert not [*(tmp_path / "sweep/0").glob("checkpoints/*"), *(tmp_path / "sweep/0").glob("s*/*")]
    assert not (tmp_path / "sweep/0/scores.json").exists()
    assert not (tmp_path / "sweep/0/metrics.csv").exists()


def test_a_job_that_was_resumed_alone_is_still_that_job(command, tiny, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(jobs, "wait_for_process", lambda folder, lock: lock.close() or ran.append(folder.name))
    overrides = ["-m", *tiny, "seed=0,1", "hydra.sweep.dir=sweep"]
    assert command("train", overrides)[0] == 0
    for name in ("0", "1"):
        (tmp_path / "sweep" / name / "run.json").unlink()
    (tmp_path / "sweep/0" / OVERRIDES).write_text("- ckpt=auto\n")  # as Hydra writes for hydra.run.dir=sweep/0
    assert command("train", overrides)[0] == 0
    assert ran == ["0", "1", "0", "1"]


@pytest.mark.parametrize("state", ["running", "interrupted", "failed", "complete"])
def test_a_job_that_stopped_resumes_from_its_last_checkpoint(command, tiny, tmp_path, monkeypatch, state):
    monkeypatch.setattr(jobs, "wait_for_process", lambda folder, lock: lock.close())
    config = tmp_path / "sweep/0/config.yaml"
    record = RunRecord(tmp_path / "sweep/0", {"state": state, "host": platform.node(), "pid": None})

    def checkpoint_of_next_job(*more):
        assert command("train", ["-m", *tiny, "seed=0", "hydra.sweep.dir=sweep", *more])[0] == 0
        record._replace()
        return yaml.safe_load(config.read_text())["ckpt"]

    assert checkpoint_of_next_job() is None
    assert checkpoint_of_next_job() is None  # it stopped before its first checkpoint
    (tmp_path / "sweep/0/checkpoints").mkdir()
    (tmp_path / "sweep/0/checkpoints/last.ckpt").touch()
    ended = state == "complete"
    assert checkpoint_of_next_job() == (None if ended else "auto")
    assert checkpoint_of_next_job() == (None if ended else "auto")
    assert checkpoint_of_next_job("ckpt=null") is None


def test_jobs_with_different_checkpoints_are_different_jobs(tmp_path):
    words = [["ckpt=a.ckpt"], ["ckpt=b.ckpt"], ["ckpt=auto"], []]
    assert [job_folder(tmp_path, i, overrides) for i, overrides in enumerate(words)] == ["0", "1", "2", "2"]


def test_the_error_for_an_unknown_sweeper_names_the_extra(command):
    status, _, err = command("train", ["-m", "hydra/sweeper=optunna"])
    assert status == 2
    assert "pip install 'diffusion-experiments[sweep]'" in err
