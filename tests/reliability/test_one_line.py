"""T12: unusual, damaged or missing files cause an error in one line, never a traceback."""

import copy
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion import files
from diffusion.checkpoint import storage
from diffusion.runs.record import RunRecord
from diffusion.status import main as status

pytestmark = pytest.mark.reliability


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> Path:
    """A finished run of two steps."""
    from composing import train

    folder = tmp_path_factory.mktemp("finished") / "run"
    train([*tiny, "samples.n=0", "trainer.max_steps=2"], folder)
    RunRecord(folder).finish("interrupted", reason="SIGTERM")
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the run that a test can damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def one_line(result: tuple[int, str, str], *words: str) -> None:
    """Check that the command exited with 2 and one line that contains the words."""
    code, out, err = result
    assert code == 2, out + err
    (line,) = err.splitlines()
    assert all(word in line for word in words), line


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values in nested mappings and lists."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, value in inner for found in [(*path, key), *places(value, (*path, key))]]


VALUES = (None, -1, 10**12, float("nan"), "x", [], {}, torch.zeros(3), torch.tensor(2**40))


def test_a_corrupted_training_state_gives_at_most_a_one_line_error(command, run, figure):
    """One value of a checkpoint other than the weights is replaced or lost; the checksum is right."""
    file = run / "checkpoints/last.ckpt"
    sound = storage.load(file)
    parts = [key for key in sound if key not in ("config", "state_dict", "current_model_state", "images")]
    spots = {part: [(part, *place) for place in [(), *places(sound[part])]] for part in sorted(parts)}
    chance = random.Random(26)
    again = ["ckpt=last", "trainer.max_steps=3"]
    ended: dict[int, int] = {}
    code, out, err = command("train", [f"hydra.run.dir={shutil.copytree(run, run.parent / 'sound')}", *again])
    assert code == 0, out + err
    for _ in range(40):
        contents, spot = copy.deepcopy(sound), chance.choice(spots[chance.choice(list(spots))])
        *path, last = spot
        node: Any = contents
        for key in path:
            node = node[key]
        if chance.random() < 0.2 and isinstance(node, dict):
            del node[last]
            how = "lost"
        else:
            node[last] = chance.choice(VALUES)
            how = f"{node[last]!r}"
        spoilt = run.parent / "spoilt"
        shutil.copytree(run, spoilt)
        for old in spoilt.glob("checkpoints/*.ckpt"):
            old.unlink()
        storage.save(contents, spoilt / "checkpoints/last.ckpt")
        code, out, err = command("train", [f"hydra.run.dir={spoilt}", *again])
        assert code in (0, 2, 3, 4), (spot, how, out + err)
        assert len(err.splitlines()) == (code > 0), (spot, how, err)
        ended[code] = ended.get(code, 0) + 1
        shutil.rmtree(spoilt)
    figure("states of training with a value replaced or lost", f"{sum(ended.values())}, by exit status: {ended}")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
@pytest.mark.parametrize("name", ["train", "sample"])
@pytest.mark.timeout(60)  # reading a pipe without a writer blocks forever
def test_a_checkpoint_that_is_not_a_regular_file_is_refused(command, tiny, tmp_path, make, name):
    make(tmp_path / "x.ckpt")
    one_line(command(name, [*(tiny if name == "train" else []), "ckpt=x.ckpt"]), "x.ckpt")


def test_unusable_run_settings_give_one_line_errors(command, tiny):
    one_line(command("train", [*tiny, "trainer.max_epochs=-1"]), "both unlimited")
    one_line(command("train", [*tiny, "trainer.limit_train_batches=0"]), "trainer.limit_train_batches=0.0: it leaves")
    one_line(command("train", [*tiny, "optimizer.lr=1e38"]), "lower optimizer.lr")


def test_a_missing_home_folder_gives_a_one_line_error(command, tiny, monkeypatch):
    def home(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(files.Path, "home", home)
    monkeypatch.delenv("DIFFUSION_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    one_line(command("train", tiny), "DIFFUSION_CACHE")


@pytest.mark.parametrize("pid", ["abc", -1, 2**70, None, [1]])
def test_status_handles_a_record_with_an_invalid_process_id(run, capsys, pid):
    content = json.loads((run / "run.json").read_text()) | {"state": "running", "pid": pid}
    (run / "run.json").write_text(json.dumps(content | {"reason": "[/x] ended with [bold"}))
    assert status([str(run)]) == 0
    assert "died" in (said := capsys.readouterr().out)
    assert "[/x] ended with [bold" in said
