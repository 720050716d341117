"""A live run owns its folder: no second run starts there."""

import platform
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from forked import FORK

from diffusion.errors import UserError
from diffusion.runs.record import CONFIG, RunRecord, claim

pytestmark = pytest.mark.reliability


def hold(folder: Path, said: Connection) -> None:
    """Claim the folder, and hold it."""
    try:
        held = claim(folder, [])
        said.send("mine")
        signal.pause()
        del held
    except UserError as error:
        said.send(str(error))


def starting(folder: Path) -> tuple[Any, Connection]:
    """A process that claims the folder, and what it says."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=hold, args=(folder, there))
    process.start()
    return process, here


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_second_run_in_the_folder_of_a_live_run_is_refused(command, tiny, tmp_path, multirun):
    (tmp_path / "run").mkdir()
    owner, said = starting(tmp_path / "run")
    assert said.recv() == "mine"
    before = (tmp_path / "run/run.json").read_bytes()
    words = [*multirun, *tiny, "hydra.run.dir=run", "hydra.sweep.dir=.", "hydra.sweep.subdir=run", "samples.n=0"]
    status, out, err = command("train", words)
    assert status == 2, out + err
    assert f"process {owner.pid} on {platform.node()}, since 20" in err
    assert (tmp_path / "run/run.json").read_bytes() == before
    assert not (tmp_path / "run/checkpoints").exists()
    owner.kill()
    owner.join()
    assert RunRecord(tmp_path / "run").state == "died"
    status, out, err = command("train", [*words, "trainer.max_steps=1"])
    assert status == 0, out + err


def test_only_one_of_two_simultaneous_starts_gets_the_folder(tmp_path):
    both = [starting(tmp_path) for _ in range(2)]
    said = {process.pid: here.recv() for process, here in both}
    (owner,) = (pid for pid, text in said.items() if text == "mine")
    assert sum("a run is alive in this folder" in text for text in said.values()) == 1
    assert RunRecord(tmp_path).content["pid"] == owner
    for process, _ in both:
        process.kill()
        process.join()


def test_the_processes_of_a_run_hold_its_folder_after_the_one_that_started_them(tmp_path):
    record = claim(tmp_path, [])
    first = RunRecord.join(tmp_path)
    held = []
    for each in (record, first):
        held.append(RunRecord(tmp_path).state)
        each.lock.close()
    held.append(RunRecord(tmp_path).state)
    assert held == ["running", "running", "died"]


@pytest.mark.parametrize("wrong", ["model.channels=[7,9]", "data.batch_size=400"])
def test_a_run_that_fails_before_training_records_the_reason(command, tiny, tmp_path, wrong):
    status, out, err = command("train", [*tiny, wrong, "hydra.run.dir=run"])
    assert status == 2, out + err
    record = RunRecord(tmp_path / "run").content
    assert record["state"] == "failed"
    assert f"error: {record['reason']}" in err


def test_a_start_that_fails_leaves_the_record_and_the_settings_of_the_earlier_run(tmp_path):
    (tmp_path / CONFIG).write_text("seed: 1\n")
    (tmp_path / "run.json").write_text('{"state": "complete"}')
    record = claim(tmp_path, [])
    (tmp_path / CONFIG).write_text("seed: 2\n")
    with pytest.raises(ZeroDivisionError), record.running():
        raise ZeroDivisionError
    assert (tmp_path / CONFIG).read_text() == "seed: 1\n"
    assert RunRecord(tmp_path).content == {"state": "complete"}
