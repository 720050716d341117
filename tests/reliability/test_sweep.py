"""The death of a sweep's job harms no other job; only missing jobs run again."""

import json
import os
import sys
from pathlib import Path

import pytest
from forked import FORK, launch_forked

from diffusion.training import jobs

pytestmark = pytest.mark.reliability

DEATHS = {  # the optimizer -> the text in the job's record
    "good": None,
    "error": "an ordinary error",
    "kill": "SIGKILL",
    "other": None,
}


def records(folder: Path) -> dict[str, dict[str, object]]:
    return {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/run.json")}


def times(folder: Path) -> dict[str, int]:
    return {file.parts[-3]: file.stat().st_mtime_ns for file in folder.glob("*/checkpoints/last.ckpt")}


def test_dying_jobs_affect_no_others_and_only_they_run_again(command, ran, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "run_ranks", launch_forked)
    choice = "optimizer._target_=" + ",".join(f"doubles.{name}" for name in DEATHS)
    words = ["train", ["-m", *tiny, "trainer.max_steps=2", "samples.n=0", choice, "hydra.sweep.dir=sweep"]]
    status, out, err = command(*words)
    assert status != 0
    found = records(tmp_path / "sweep")
    assert len(found) == len(DEATHS), out + err
    for i, (name, reason) in enumerate(DEATHS.items()):
        assert found[str(i)]["state"] == ("complete" if reason is None else "failed"), name
        assert reason is None or reason in str(found[str(i)]["reason"]), found[str(i)]
    assert "hydra.sweep.dir=" in err
    before = times(tmp_path / "sweep")

    monkeypatch.setenv("CURED", "1")
    ran(*words)
    assert {record["state"] for record in records(tmp_path / "sweep").values()} == {"complete"}
    after = times(tmp_path / "sweep")
    again = [name for name in sorted(after) if after[name] != before.get(name)]
    assert again == [str(i) for i, reason in enumerate(DEATHS.values()) if reason]

    config = tmp_path / "sweep/3/config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 5"))  # as if a default had changed since then
    status, out, err = command(*words)
    assert status == 2
    assert "sweep/3 contains checkpoints of another run" in err
    assert times(tmp_path / "sweep") == after
    ran(words[0], [*words[1], "ckpt=null"])
    last = times(tmp_path / "sweep")
    assert [name for name in last if last[name] != after[name]] == ["3"]


def one_launch(folder: str, barrier: object) -> None:
    """`diffusion train`, with a training that only writes a file."""
    from diffusion import train
    from diffusion.training import run as training

    def write(settings: object, run: Path, record: object) -> None:
        with (run / "here").open("x"):
            pass

    os.chdir(folder)
    training.train = write  # type: ignore[assignment]
    sys.argv = ["diffusion.train", "name=burst"]
    barrier.wait()  # type: ignore[attr-defined]
    train.main()


def test_four_simultaneous_launches_get_four_folders(tmp_path):
    barrier = FORK.Barrier(4)
    started = [FORK.Process(target=one_launch, args=(str(tmp_path), barrier)) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 4
    folders = list((tmp_path / "outputs/burst").iterdir())
    assert len(folders) == 4
    assert all((folder / "here").is_file() for folder in folders)
