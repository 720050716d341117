"""A live run owns its folder: no second run starts there."""

import platform
import shutil
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from forked import FORK

from diffusion.cli import export, prune
from diffusion.errors import UserError
from diffusion.runs.launch import Launch
from diffusion.runs.record import CONFIG, RunRecord

pytestmark = pytest.mark.reliability


def hold(folder: Path, said: Connection) -> None:
    """Claim the folder, and hold it."""
    try:
        held = Launch(folder).claim()
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


def test_a_second_run_in_the_folder_of_a_live_run_is_refused(command, ran, tiny, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    owner, said = starting(folder)
    assert said.recv() == "mine"
    before = (folder / "run.json").read_bytes()
    words = [*tiny, "hydra.run.dir=run", "samples.n=0"]
    for name, given in (("train", words), ("sample", ["ckpt=demo", "n=1", "device=cpu", "hydra.run.dir=run"])):
        status, out, err = command(name, given)
        assert status == 2, out + err
        assert f"process {owner.pid} on {platform.node()}, since 20" in err
    assert not (folder / ".hydra").exists()
    assert (folder / "run.json").read_bytes() == before
    assert not (folder / "checkpoints").exists()
    owner.kill()
    owner.join()
    assert RunRecord(folder).state == "died"
    ran("train", [*words, "trainer.max_steps=1"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train", ["hydra.run.dir="]),
        ("train", ["hydra.run.dir=."]),
        ("train", ["hydra.run.dir='${name}'", "name=mine"]),
        ("train", ["hydra.run.dir=mine", "ckpt=auto"]),
        ("train", ["-m", "hydra.sweep.dir=mine"]),
        ("sample", ["hydra.run.dir=mine"]),
        ("sample", ["hydra.run.dir=home"]),
        ("sample", ["-m", "hydra.sweep.dir=mine"]),
    ],
)
def test_a_folder_of_the_user_is_refused_and_left_as_it_is(refused, tiny, two_steps, tmp_path, name, words):
    for file in ("README.md", "config.yaml", "images.npz", "images/0000.png"):
        (tmp_path / "mine" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / file).write_text("seed: 0")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.bashrc").touch()
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
    more = [*tiny, "trainer.max_steps=1", "samples.n=0"] if name == "train" else [f"ckpt={two_steps}", "n=1"]
    assert ("it is empty" if words == ["hydra.run.dir="] else "is no output of diffusion") in refused(
        name, [*more, *words]
    )
    assert {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_the_jobs_of_a_sweep_of_samples_share_its_folder_and_are_drawn_again_there(command, two_steps, tmp_path):
    words = ["-m", f"ckpt={two_steps}", "n=1", "seed=0,1", "device=cpu"]
    assert command("sample", words)[0] == 0
    (folder,) = (tmp_path / "outputs/samples").iterdir()
    assert command("sample", [*words, f"hydra.sweep.dir={folder}"])[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "multirun.yaml"]


def test_files_behind_a_link_are_neither_overwritten_nor_removed(command, two_steps, tmp_path, capfd):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/0.png").write_text("mine")
    words = [f"ckpt={two_steps}", "n=1", "device=cpu", "hydra.run.dir=drawn"]
    assert command("sample", words)[0] == 0
    shutil.rmtree(tmp_path / "drawn/images")
    (tmp_path / "drawn/images").symlink_to(tmp_path / "photos")
    assert command("sample", words)[0] == 2
    assert (tmp_path / "photos/0.png").read_text() == "mine"

    shutil.copytree(two_steps, tmp_path / "runs/run", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "runs/run/checkpoints").symlink_to(two_steps / "checkpoints")
    assert prune.main([str(tmp_path / "runs"), "--weights", "--yes"]) == 0
    assert "skipped" in capfd.readouterr().out
    assert (two_steps / "checkpoints/last.ckpt").is_file()


def test_export_replaces_only_its_own_files(two_steps, tmp_path, capsys):
    assert [export.main([str(two_steps), f"{tmp_path}/own.safetensors"]) for _ in range(2)] == [0, 0]
    for name, form in (("model.safetensors", "safetensors"), ("page.html", "web")):
        (tmp_path / name).write_text("mine")
        assert export.main([str(two_steps), f"{tmp_path}/{name}", "--format", form]) == 2
        assert capsys.readouterr().err.endswith("choose another name\n")
        assert (tmp_path / name).read_text() == "mine"


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
    record = Launch(tmp_path).claim()
    first = RunRecord.join(tmp_path)
    held = []
    for each in (record, first):
        held.append(RunRecord(tmp_path).state)
        each.lock.close()
    held.append(RunRecord(tmp_path).state)
    assert held == ["running", "running", "died"]


def test_a_start_that_fails_leaves_the_record_and_the_settings_of_the_earlier_run(tmp_path):
    (tmp_path / CONFIG).write_text("seed: 1\n")
    (tmp_path / "run.json").write_text('{"state": "complete"}')
    record = Launch(tmp_path).claim()
    (tmp_path / CONFIG).write_text("seed: 2\n")
    with pytest.raises(ZeroDivisionError), record.running():
        raise ZeroDivisionError
    assert (tmp_path / CONFIG).read_text() == "seed: 1\n"
    assert RunRecord(tmp_path).content == {"state": "complete"}


@pytest.mark.parametrize("content", ["", "[]", '{"a": ' + "[" * 100_000])
def test_a_run_with_a_damaged_record_is_not_begun_again(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json: not readable .*; restore it"):
        Launch(tmp_path).claim()
    assert (tmp_path / "run.json").read_text() == content
