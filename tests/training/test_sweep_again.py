"""The same sweep again: complete jobs do not run, stopped ones resume."""

import json

import pytest
import yaml

from diffusion.runs import jobs
from diffusion.runs.record import RunRecord


@pytest.fixture
def started(monkeypatch) -> list[str]:
    """The names of the folders of jobs that are started; they complete immediately."""
    ran = []

    def start(processes, folder, module):
        ran.append(folder.name)
        RunRecord.join(folder).finish("complete", result=1.0)

    monkeypatch.setattr(jobs, "launch", start)
    return ran


@pytest.mark.filterwarnings("error::UserWarning")  # runs without numbers are compared, too
def test_a_complete_job_is_not_run_again(command, tiny, tmp_path, started):
    overrides = ["-m", *tiny, "seed=0,1", "hydra.sweep.dir=sweep"]
    assert command("train", overrides)[0] == 0
    (tmp_path / "sweep/1/run.json").unlink()
    assert command("train", [*overrides, "ckpt=auto"])[0] == 0
    assert command("train", overrides)[0] == 0
    assert started == ["0", "1", "1"]


@pytest.mark.parametrize("state", ["running", "interrupted", "failed", "complete"])
def test_a_job_that_stopped_resumes_from_its_last_checkpoint(command, tiny, tmp_path, started, state):
    folder = tmp_path / "sweep/0"

    def checkpoint_of_next_job(*more: str) -> str | None:
        assert command("train", ["-m", *tiny, "seed=0", "hydra.sweep.dir=sweep", *more])[0] == 0
        (folder / "run.json").write_text(json.dumps({"state": state}))
        return yaml.safe_load((folder / "config.yaml").read_text())["ckpt"]

    assert checkpoint_of_next_job() is None
    assert checkpoint_of_next_job() is None  # it stopped before its first checkpoint
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/last.ckpt").touch()
    ended = state == "complete"
    assert checkpoint_of_next_job() == (None if ended else "auto")
    assert checkpoint_of_next_job() == (None if ended else "auto")
    assert checkpoint_of_next_job("ckpt=null") is None


def test_a_job_records_the_command_that_runs_it_alone(command, tiny, tmp_path, started):
    command("train", ["-m", *tiny, "seed=0", "optimizer.lr=1e-3,1e-4", "hydra.sweep.dir=sweep"])
    recorded = RunRecord(tmp_path / "sweep/1").content["command"]
    assert recorded.startswith("python -m diffusion.train data=folder")
    assert "seed=0 optimizer.lr=0.0001" in recorded


def test_the_error_for_an_unknown_sweeper_names_the_extra(command):
    status, _, err = command("train", ["-m", "hydra/sweeper=optunna"])
    assert status == 2
    assert "pip install 'diffusion-experiments[sweep]'" in err
