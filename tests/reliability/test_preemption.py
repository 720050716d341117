"""A signalled run saves its state, and the resumed run is the same run, bit for bit, with or without a console."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from forked import Train, train
from outcomes import lines, same, state
from places import at

from diffusion.checkpoint import storage

pytestmark = pytest.mark.reliability

RECIPE = (  # 4 epochs of 6 batches, 3 steps
    "trainer.max_epochs=4", "trainer.accumulate_grad_batches=2", "model.dropout=0.2", "lr_scheduler=warmup",
    "samples.every_n_epochs=1", "samples.n=2", "validation.draws=2", "data.eval_batch_size=4",
    "checkpoint.every_n_steps=2",
)  # fmt: skip
HUP, INT, TERM, XCPU = signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGXCPU
PLACES = [  # one after the other: a call of a function since the run was resumed, the signals, and the step saved
    ("step", 4, (TERM,), 2),
    ("validation", 1, (HUP,), 3),
    ("sampling", 2, (INT, TERM), 6),
    ("saving", 1, (TERM, INT), 6),
    ("step", 3, (INT, INT, INT), 6),  # the third Ctrl-C ends it immediately
    ("swap", 1, (TERM, TERM), 9),
    ("step", 1, (XCPU,), 10),
    ("linking", 2, (INT,), 12),
]


def outcome(run: Path) -> dict[str, Any]:
    """The final state, the curves, and the names of the images."""
    curves = {(row["step"], name, value) for row in lines(run) for name, value in row.items() if "/" in name}
    return state(run) | {"curves": curves, "pictures": sorted(p.name for p in (run / "samples").iterdir())}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    assert train([*tiny, *RECIPE, f"hydra.run.dir={folder}/run"], folder / "log") == 0, (folder / "log").read_text()
    return outcome(folder / "run")


def test_runs_signalled_at_given_places_resume_exactly(tiny, whole, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    words = [*tiny, *RECIPE, f"hydra.run.dir={run}", "ckpt=auto"]
    for place, call, numbers, step in PLACES:
        assert train(words, log, at(place, call, numbers)) == 128 + numbers[0], (place, log.read_text())
        assert storage.load(run / "checkpoints/last.ckpt")["global_step"] == step, place
    assert train(words, log) == 0, log.read_text()
    assert same(outcome(run), whole), log.read_text()


def test_runs_signalled_at_random_times_resume_exactly(tiny, whole, tmp_path):
    """From outside: the first time before training starts, then shortly after some steps."""
    random.seed(4)
    run, log = tmp_path / "run", tmp_path / "log"
    words = [*tiny, *RECIPE, f"hydra.run.dir={run}", "ckpt=auto"]
    for k in range(6):
        pause, numbers = random.uniform(0, 0.1), random.choice([(TERM,), (INT,), (TERM, TERM), (INT, TERM)])
        more = written(run) + random.randrange(1, 6) if k else 0
        started = Train(words, log)
        while started.alive and written(run) < more:
            time.sleep(0.002)
        time.sleep(pause)
        if started.alive:
            for number in numbers:
                os.kill(started.pid, number)
        assert started.ended() in (128 + numbers[0], 0), (k, log.read_text())  # 0: too late
    assert train(words, log) == 0, log.read_text()
    assert same(outcome(run), whole), log.read_text()


def written(run: Path) -> int:
    """The lines of metrics.csv."""
    return (run / "metrics.csv").read_bytes().count(b"\n") if (run / "metrics.csv").exists() else 0


def test_a_run_without_a_console_completes(tiny, whole, tmp_path):
    def close() -> None:
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)
        os.close(reading)

    assert train([*tiny, *RECIPE, f"hydra.run.dir={tmp_path}/run"], tmp_path / "log", close) == 0
    assert same(outcome(tmp_path / "run"), whole)
