"""T4 in two processes: both are signalled at any place; they save at the same step, end, and resume bit for bit."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import Train, counted, train
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from outcomes import lines, same, state

from diffusion.data import ImageData
from diffusion.evaluation.pipeline import Scorer
from diffusion.training import periodic, processes, signals
from diffusion.training.module import Diffusion

pytestmark = pytest.mark.reliability

RECIPE = (
    "data.batch_size=2", "data.eval_batch_size=2", "trainer.devices=2", "trainer.max_epochs=2", "model.dropout=0.2",
    "samples.every_n_epochs=1", "samples.n=2", "score.every_n_epochs=1", "score.n=4", "score.baselines=[]",
    "~features", "+features._target_=doubles.Rows", "sampler.steps=4",
)  # fmt: skip
PLACES: dict[str, tuple[Any, str, int]] = {  # rank 0's n-th call of a function
    "before the first step": (Diffusion, "configure_optimizers", 1),
    "pictures, which the first process draws alone": (signals, "poll", 2),
    "samples to score": (periodic, "poll", 2),
    "scoring": (Scorer, "score", 1),
    "validation": (Diffusion, "validation_step", 2),
}


def signalled(place: tuple[Any, str, int]) -> Callable[[], None]:
    """A function that makes the whole process group receive SIGTERM at this place."""
    return lambda: counted(*place, lambda: os.killpg(0, signal.SIGTERM))


def outcome(folder: Path) -> dict[str, Any]:
    """The final state, all lines of metrics.csv, all scores and all images."""
    scores = [(r["metric"], r["step"], str(r["value"])) for r in json.loads((folder / "scores.json").read_text())]
    pictures = [(file.name, file.read_bytes()) for file in sorted(folder.glob("samples/*"))]
    return state(folder) | {"lines": lines(folder), "scores": scores, "pictures": pictures}


def test_two_processes_signalled_at_any_place_resume_exactly(tiny, tmp_path, figure):
    whole, folder, log = tmp_path / "a/whole", tmp_path / "b/run", tmp_path / "log"
    overrides = [*tiny, *RECIPE]
    assert train([*overrides, f"hydra.run.dir={whole}"], log) == 0, log.read_text()
    for where, place in PLACES.items():
        assert train([*overrides, f"hydra.run.dir={folder}", "ckpt=auto"], log, signalled(place)) == 143, (
            log.read_text()
        )
        assert json.loads((folder / "run.json").read_text())["state"] == "interrupted", where
        if "pictures" in where:
            assert not list(folder.glob("samples/*")), "they were finished"
    assert train([*overrides, f"hydra.run.dir={folder}", "ckpt=auto"], log) == 0, log.read_text()
    expected, got = outcome(whole), outcome(folder)
    for part in expected:
        assert same(got[part], expected[part]), part
    figure("two processes signalled", f"at {len(PLACES)} places one after the other, resumed bitwise")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_signal_while_lightning_prepares_the_training_ends_all_processes(strategy, tiny, tmp_path):
    """Lightning's handler of SIGTERM, which may wait forever for the other processes, is replaced before that."""
    log = tmp_path / "log"

    def signal_all() -> None:
        _SignalConnector._sigterm_notifier_fn = lambda *_: os._exit(3)  # type: ignore[method-assign]
        signalled((ImageData, "train_dataloader", 1))()

    run = [*tiny, *RECIPE, f"trainer.strategy={strategy}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert train(run, log, signal_all) == 143, log.read_text()
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "interrupted"


@pytest.mark.timeout(150)  # rank 0 would wait for half an hour
def test_a_stopped_process_does_not_block_the_others_forever(tiny, tmp_path, figure):
    run, log = tmp_path / "run", tmp_path / "log"

    def soon() -> None:
        processes.PAUSE = 1.0  # type: ignore[misc]

    started = Train(
        [*tiny, *RECIPE, "trainer.max_epochs=-1", "trainer.max_steps=100000", f"hydra.run.dir={run}"], log, soon
    )
    while not (run / "metrics.csv").exists():
        assert started.alive, log.read_text()
        time.sleep(0.05)
    (follower,) = map(int, Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split())
    os.kill(follower, signal.SIGSTOP)
    assert started.ended() == 1
    said = log.read_text()
    assert said.count(f"process {follower} of the run is stopped: kill -CONT {follower} continues it") == 1
    assert f"error: process {follower} of the run was killed by SIGKILL; to resume: python -m" in said
    assert "Traceback" not in said
    figure("a process of a run is stopped", "the run says so, and ends after a while")
