"""Checkpoint files survive kill −9, damage, and disk errors."""

import errno
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffusion.base import files
from diffusion.checkpoint import storage
from diffusion.checkpoint.find import find
from diffusion.checkpoint.restore import read
from diffusion.config import schema
from diffusion.errors import UserError
from diffusion.training.clock import Clock
from diffusion.training.saving import Checkpoints

pytestmark = pytest.mark.reliability


def contents(step: int) -> dict:
    """A checkpoint with its step throughout its content; writing it takes several calls."""
    weights = {f"w{i}": torch.full((20_000,), float(step)) for i in range(4)}
    return {"config": "name: test", "state_dict": weights, "global_step": step, "epoch": 0}


def whole(path: Path) -> int:
    """The step of a checkpoint, after a check that all of its content is from that step."""
    held = storage.load(path)
    step = held["global_step"]
    assert all(torch.equal(value, torch.full((20_000,), float(step))) for value in held["state_dict"].values())
    return step


def save(folder: Path, step: int) -> None:
    """Save as saving.Checkpoints does on rank 0."""
    storage.save(contents(step), path := storage.numbered(folder, step))
    files.link(path, folder / "last.ckpt")
    for old in storage.numbered_files(folder)[2:]:
        old.unlink()


def found(run: Path) -> Path:
    """The checkpoint that `ckpt=auto` resumes from in a run's folder."""
    checkpoint = find("auto", run)
    assert checkpoint is not None
    return checkpoint[0]


def arm(point: str) -> None:
    """Die before or after the next call of a function of `os`."""
    when, name = point.split()
    function = getattr(os, name)

    def dying(*arguments: Any) -> None:
        if when == "after":
            function(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, name, dying)


POINTS = ["before fsync", "after fsync", "before replace", "after replace", "before link", "after link"]


def child(folder: Path, pipe: int, point: str | None, first: int) -> None:
    """Save in a loop; report each saved step to the parent."""
    for step in range(first, 10_000):
        if point is not None and step == first + 1:
            arm(point)
        save(folder, step)
        os.write(pipe, step.to_bytes(4, "little"))


def test_checkpoints_survive_kill_9_while_saving(tmp_path):
    """40 children are killed while saving; the newest checkpoint is the last acknowledged one, or newer."""
    random.seed(1)
    leftovers = 0
    for k in range(40):
        run = tmp_path / f"run{k % 10}"  # some continue in the folder of a killed child
        folder = run / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        point = POINTS[(k // 2) % len(POINTS)] if k % 2 else None
        first = max(map(storage.step_in_name, storage.numbered_files(folder)), default=0) + 1
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                child(folder, write_end, point, first)
            finally:
                os._exit(1)
        os.close(write_end)
        acknowledged = b""
        if point is None:
            acknowledged = os.read(read_end, 4)  # it has started to save
            time.sleep(random.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        while data := os.read(read_end, 4096):
            acknowledged += data
        os.close(read_end)
        last = int.from_bytes(acknowledged[-4:], "little")
        assert last >= first
        assert whole(found(run)) >= last
        assert whole(folder / "last.ckpt") >= last
        leftovers += any(folder.glob(f".*{files.PART}"))
        save(folder, last + 2)
        names = {f.name for f in folder.iterdir()}
        assert not any(name.endswith(files.PART) for name in names)
        assert len(names) <= 3
    assert leftovers > 3  # otherwise the kills did not fall within a save


def test_a_file_is_synced_before_and_its_folder_after_the_rename(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, function=function: calls.append(name) or function(*a))
    storage.save(contents(1), tmp_path / "a.ckpt")
    assert calls == ["fsync", "replace", "fsync"]


def damages(data: bytes) -> dict[str, bytes]:
    """Damaged bytes of a file."""
    size = len(data)
    short = {f"truncated at {n}": data[:n] for n in (0, 1, size // 2, size - 40, size - 1)}
    places = [size * k // 20 for k in range(20)]
    return short | {f"flipped at {p}": data[:p] + bytes([data[p] ^ (1 << p % 8)]) + data[p + 1 :] for p in places}


def test_a_damaged_newest_checkpoint_is_skipped_and_reported(tmp_path, capfd):
    """If the newest is damaged, the previous one is used and the reason printed; a named file has no fallback."""
    run, folder = tmp_path / "run", tmp_path / "run/checkpoints"
    for step in (1, 2, 3):
        storage.save(contents(step), storage.numbered(folder, step))
        os.utime(storage.numbered(folder, step), (9 - step, 9 - step))  # as if the clock had been set back
    newest = storage.numbered(folder, 3)
    good = newest.read_bytes()
    assert found(run) == newest
    for what, data in damages(good).items():
        newest.write_bytes(data)
        capfd.readouterr()
        assert found(run) == storage.numbered(folder, 2), what
        assert f"skipped {newest}" in capfd.readouterr().out.replace("\n", "")
        with pytest.raises(UserError, match=newest.name):
            find(str(newest), run)
    newest.write_bytes(good)
    (folder / "last.ckpt").write_bytes(good[:-1])
    with pytest.raises(UserError, match=r"last\.ckpt"):
        find("last", run)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError):
        find("auto", run)  # never a silent fresh start
    assert find("auto", tmp_path / "empty") is None


def test_last_names_the_newer_run_that_ended_before_its_first_checkpoint(tmp_path, capfd):
    saved = storage.numbered(tmp_path / "saved/checkpoints", 1)
    storage.save(contents(1), saved)
    for seconds, name in enumerate(("killed", "own")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").touch()
        os.utime(tmp_path / name / "run.json", 2 * (time.time() + 9 + seconds,))
    chosen = find("last", tmp_path / "own")
    assert chosen is not None
    assert chosen[0] == saved
    assert "/killed is newer, but has saved no checkpoint" in capfd.readouterr().out.replace("\n", "")


def test_a_file_without_a_checksum_is_refused(tmp_path):
    torch.save(contents(2), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError):
        read(tmp_path / "old.ckpt")


def test_a_failed_save_raises_and_leaves_the_old_file(tmp_path):
    """The error is a real one, which torch would turn into a RuntimeError."""
    storage.save(contents(1), path := tmp_path / "a.ckpt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            storage.save(contents(2), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert whole(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_run_on_a_full_disk_ends_with_an_error(command, tiny, tmp_path, monkeypatch):
    """It reports the error, and the previous checkpoint is intact."""
    real, calls = storage.save, []

    def full_the_second_time(what, path):
        calls.append(path)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(what, path)

    monkeypatch.setattr(storage, "save", full_the_second_time)
    status, out, err = command("train", [*tiny, "samples.n=0", "hydra.run.dir=run"])
    assert status == 2, out + err
    assert os.strerror(errno.ENOSPC) in err
    assert storage.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 6


def test_a_full_disk_and_damaged_scores_are_met_before_the_first_step(command, two_steps, tiny, tmp_path, monkeypatch):
    shutil.copytree(two_steps, tmp_path / "run")
    (tmp_path / "run/scores.json").write_text("[{")
    status, _, err = command("train", [*tiny, "samples.n=0", "hydra.run.dir=run", "ckpt=auto", "trainer.max_steps=4"])
    assert (status, err.count("\n"), "run/scores.json: not readable" in err) == (2, 1, True)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=500_000))  # a checkpoint has 925,119
    status, _, err = command("train", [*tiny, "samples.n=0", "hydra.run.dir=new"])
    assert (status, err.count("\n")) == (2, 1)
    assert "checkpoint of this run needs about 724.1 kB, with 500.0 kB free" in err
    assert not (tmp_path / "new/metrics.csv").exists()


def test_checkpoints_of_another_run_are_not_overwritten(refused, two_steps, tiny, tmp_path):
    run, before = [*tiny, "samples.n=0", "trainer.max_steps=2"], (two_steps / "run.json").read_bytes()
    for more in ([], [f"ckpt={two_steps.parent / 'elsewhere'}"]):
        refused("train", [*run, "seed=1", f"hydra.run.dir={two_steps}", *more])
    assert (two_steps / "run.json").read_bytes() == before


def test_the_last_ones_are_kept_and_those_of_repeated_steps_removed(tmp_path):
    def save_at(step: int, keep: int) -> list[int]:
        settings = SimpleNamespace(checkpoint=schema.Checkpoint(keep=keep), trainer=schema.Trainer())
        checkpoints = Checkpoints(
            SimpleNamespace(settings=settings, folder=tmp_path, clock=Clock(epoch=1, total=100), resumed=None)
        )
        trainer = SimpleNamespace(
            global_step=step, is_global_zero=True, save_checkpoint=lambda path: storage.save(contents(step), path)
        )
        checkpoints.save(trainer)  # type: ignore[arg-type]
        return [storage.step_in_name(file) for file in storage.numbered_files(tmp_path / "checkpoints")]

    assert [save_at(step, 2) for step in (10, 20, 30)] == [[10], [20, 10], [30, 20]]
    assert save_at(25, 3) == [25, 20]  # resumed from an older one by name
    assert found(tmp_path) == storage.numbered(tmp_path / "checkpoints", 25)
    assert whole(tmp_path / "checkpoints/last.ckpt") == 25
