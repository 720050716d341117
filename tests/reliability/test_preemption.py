"""T4: a signalled run saves its state, and the resumed run is the same run bit for bit."""

import csv
import os
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from forked import Train, train
from outcomes import same, state
from places import at

from diffusion.checkpoint import storage

pytestmark = pytest.mark.reliability

RECIPE = (
    "trainer.max_epochs=4",
    "trainer.accumulate_grad_batches=2",
    "model.dropout=0.2",
    "lr_scheduler=warmup",
    "samples.every_n_epochs=1",
    "samples.n=2",
    "validation.draws=2",
    "data.eval_batch_size=4",
    "checkpoint.every_n_steps=2",
)  # 4 epochs of 6 batches, 3 steps


def curves(run: Path) -> dict[tuple[int, str], str]:
    """(step, metric) -> value in metrics.csv."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(int(float(row["step"])), k): v for row in rows for k, v in row.items() if v and "/" in k}


TIMES = 8
TERM, INT = signal.SIGTERM, signal.SIGINT
PLACES = {
    f"{place} {call}, {' '.join(number.name for number in numbers)}": (place, call, numbers, step)
    for place, call, numbers, step in [  # the last is the step at which the run is saved
        ("step", 4, (TERM,), 2), ("step", 9, (INT,), 5),
        ("step", 13, (TERM, TERM), 7), ("step", 4, (INT, INT, INT), 0),  # the third Ctrl-C ends it immediately
        ("validation", 1, (TERM,), 3), ("validation", 14, (INT,), 12),
        ("swap", 4, (TERM, TERM), 3), ("saving", 2, (TERM, INT), 3), ("linking", 3, (INT,), 3),
        ("sampling", 7, (INT, TERM), 6),
    ]
}  # fmt: skip


class Whole(NamedTuple):
    """The results of an uninterrupted run."""

    duration: float
    state: dict
    curves: dict[tuple[int, str], str]
    pictures: list[str]

    @classmethod
    def of(cls, folder: Path, duration: float = 0.0) -> "Whole":
        return cls(duration, state(folder), curves(folder), sorted(p.name for p in (folder / "samples").iterdir()))


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    log = folder / "log"
    began = time.monotonic()
    assert train([*tiny, *RECIPE, f"hydra.run.dir={folder}/run"], log) == 0, log.read_text()
    return Whole.of(folder / "run", time.monotonic() - began)


def resume(tiny: list[str], run: Path, log: Path, whole: Whole, story: object) -> int:
    """Resume a run, check that it ends like an uninterrupted one, and return the step at which it resumed."""
    files = storage.numbered_files(run / "checkpoints")
    step = storage.load(files[0])["global_step"] if files else 0
    assert train([*tiny, *RECIPE, f"hydra.run.dir={run}", "ckpt=auto"], log) == 0, (story, log.read_text())
    resumed = Whole.of(run)
    assert same(resumed.state, whole.state), (story, log.read_text())
    assert resumed.curves == whole.curves, (story, log.read_text())
    assert resumed.pictures == whole.pictures, (story, log.read_text())
    return step


@pytest.mark.parametrize("where", PLACES)
def test_t4_a_run_signalled_at_a_given_place_resumes_exactly(tiny, whole, tmp_path, figure, where):
    place, call, numbers, step = PLACES[where]
    run, log = tmp_path / "run", tmp_path / "log"
    status = train([*tiny, *RECIPE, f"hydra.run.dir={run}"], log, at(place, call, numbers))
    assert status == 128 + numbers[0], log.read_text()
    if place == "sampling":
        assert not (run / f"samples/step-{step:08d}.png").exists()  # drawing was interrupted
    assert resume(tiny, run, log, whole, where) == step
    places.append(step)
    figure("preemptions at a given place", f"{len(places)}, {len(places)} resumed bitwise (at steps {places})")


places: list[int] = []


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_t4_runs_signalled_at_random_times_resume_exactly(tiny, whole, tmp_path, figure):
    """From outside: two of them before training starts, the others shortly after a random step."""
    random.seed(4)
    steps, late = [], 0
    for k in range(TIMES):
        after = 0 if k < 2 else random.randrange(1, 26)  # lines of metrics.csv, of 29
        pause = random.uniform(0, 0.5 if k < 2 else 0.05) * whole.duration
        numbers = random.choice([(TERM,), (INT,), (TERM, TERM), (INT, TERM)])
        run, log = tmp_path / str(k) / "run", tmp_path / f"{k}.log"  # no other run next to it, which it might resume
        started = Train([*tiny, *RECIPE, f"hydra.run.dir={run}"], log)
        while lines(run / "metrics.csv") < after and started.alive:
            time.sleep(0.002)
        time.sleep(pause)
        if started.alive:
            for number in numbers:
                os.kill(started.pid, number)
        status, story = started.ended(), f"{k}: {numbers} after line {after} and {pause:.3f} s"
        assert status in (128 + numbers[0], 0), (story, log.read_text())
        late += status == 0  # it had already finished
        steps.append(resume(tiny, run, log, whole, story))
    figure("preemptions at random times", f"{TIMES}, of which {late} too late; all resumed bitwise (at steps {steps})")


@pytest.mark.timeout(400)  # processes that disagree wait for each other
def test_t4_two_processes_stop_at_the_same_step(tiny, tmp_path, figure):
    """Only rank 0 is signalled; both processes save, end, and resume as if never stopped."""
    overrides = [*tiny, *RECIPE, "data.batch_size=2", "trainer.devices=2"]
    whole, log = tmp_path / "whole" / "run", tmp_path / "log"
    assert train([*overrides, f"hydra.run.dir={whole}"], log) == 0, log.read_text()
    for number, call, step in ((INT, 4, 2),):
        run = tmp_path / number.name / "run"
        status = train([*overrides, f"hydra.run.dir={run}"], log, at("step", call, (number,)))
        assert status == 128 + number, log.read_text()
        assert storage.load(run / "checkpoints/last.ckpt")["global_step"] == step
        assert train([*overrides, f"hydra.run.dir={run}", "ckpt=auto"], log) == 0, log.read_text()
        assert same(state(run), state(whole))
        assert curves(run) == curves(whole)
    figure("two processes, one of them signalled", "by Ctrl-C: both stop at the same step, resumed bitwise")
