"""T4 in two processes: all are told to end, wherever they are; they save at one step, end, and go on bit for bit."""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from outcomes import lines, same, state

import diffusion.train
from diffusion.training import callbacks, run
from diffusion.training.module import Diffusion

pytestmark = pytest.mark.reliability

HERE = str(Path(__file__).parent)
RECIPE = (
    "data.batch_size=2", "data.eval_batch_size=2", "trainer.devices=2", "trainer.max_epochs=2", "model.dropout=0.2",
    "samples.every_n_epochs=1", "samples.n=2", "score.every_n_epochs=1", "score.n=4", "score.yardsticks=[]",
    "~features", "+features._target_=told.Rows", "sampler.steps=4",
)  # fmt: skip
PLACES: dict[str, tuple[Any, str, int]] = {  # one after the other, the first process's n-th call of a function
    "before the first step": (Diffusion, "configure_optimizers", 1),
    "pictures, which the first process draws alone": (callbacks, "poll", 2),
    "samples to score": (callbacks, "poll", 4 + 2),
    "scoring": (callbacks, "score_samples", 1),
    "validation": (Diffusion, "validation_step", 2),
}


def child(log: Path, overrides: list[str], place: tuple[Any, str, int] | None) -> None:
    """`python -m diffusion.train OVERRIDES` as the leader of a process group, all of which is told to end."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.path.insert(0, HERE)
    os.environ["PYTHONPATH"] = f"{HERE}:{os.environ.get('PYTHONPATH', '')}"
    torch.set_num_threads(1)
    run.write_report = lambda *_: None  # type: ignore[assignment]
    if place is not None:
        owner, name, left = place
        function = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.killpg(0, signal.SIGTERM)
            return function(*args, **kwargs)

        setattr(owner, name, counted)
    sys.argv = ["diffusion.train", *overrides]
    GlobalHydra.instance().clear()
    diffusion.train.main()


def ended(log: Path, overrides: list[str], place: tuple[Any, str, int] | None = None) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=child, args=(log, overrides, place))
    process.start()
    process.join()
    return process.exitcode


def outcome(folder: Path) -> dict[str, Any]:
    """The last state, every line of metrics.csv, every score."""
    scores = [(r["metric"], r["step"], str(r["value"])) for r in json.loads((folder / "scores.json").read_text())]
    pictures = [(file.name, file.read_bytes()) for file in sorted(folder.glob("samples/*"))]
    return state(folder) | {"lines": lines(folder), "scores": scores, "pictures": pictures}


def test_two_processes_told_to_end_wherever_they_are(tiny, tmp_path, figure):
    whole, folder, log = tmp_path / "a/whole", tmp_path / "b/run", tmp_path / "log"
    overrides = [*tiny, *RECIPE]
    assert ended(log, [*overrides, f"hydra.run.dir={whole}"]) == 0, log.read_text()
    for where, place in PLACES.items():
        assert ended(log, [*overrides, f"hydra.run.dir={folder}", "ckpt=auto"], place) == 143, where + log.read_text()
        assert json.loads((folder / "run.json").read_text())["state"] == "interrupted", where
        if "pictures" in where:
            assert not list(folder.glob("samples/*")), "they were drawn to the end"
    assert ended(log, [*overrides, f"hydra.run.dir={folder}", "ckpt=auto"]) == 0, log.read_text()
    expected, got = outcome(whole), outcome(folder)
    for part in expected:
        assert same(got[part], expected[part]), part
    figure("two processes told to end", f"at {len(PLACES)} places one after the other, resumed bitwise")
