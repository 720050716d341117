"""T4: a run that is told to end saves its state, and the resumed run is the same run bit for bit."""

import csv
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffusion.training import storage

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


def forked(log: Path, overrides: list[str], prepare: Callable[[], None] = lambda: None) -> int:
    """The process id of `python -m diffusion.train OVERRIDES`, without the seconds that its imports take."""
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        from hydra.core.global_hydra import GlobalHydra

        import diffusion.train
        import diffusion.training.run

        diffusion.training.run.write_report = lambda *_: None
        GlobalHydra.instance().clear()
        sys.argv = ["diffusion.train", *overrides]
        prepare()
        diffusion.train.main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(pid: int) -> int:
    """The exit status, as a shell gives it."""
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def at(place: str, call: int, numbers: tuple[int, ...]) -> Callable[[], None]:
    """Have the process send itself the signals at the n-th call of a function."""

    def prepare() -> None:
        import diffusion.training.callbacks as callbacks
        from diffusion.training.ema import EMA
        from diffusion.training.module import Diffusion

        owner, name = {
            "step": (Diffusion, "training_step"),
            "validation": (Diffusion, "validation_step"),
            "swap": (EMA, "_swap_models"),
            "saving": (storage.Sealed, "put"),
            "renaming": (os, "replace"),
            "sampling": (callbacks, "poll"),
        }[place]
        function, left = getattr(owner, name), [call]

        def counted(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                for number in numbers:
                    os.kill(os.getpid(), number)
            return function(*args, **kwargs)

        setattr(owner, name, counted)

    return prepare


def state(run: Path) -> dict:
    """What must be equal, bit for bit."""
    contents = storage.load(run / "checkpoints/last.ckpt")
    kept = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")
    return {key: contents[key] for key in (*kept, "epoch")}


def curves(run: Path) -> dict[tuple[int, str], str]:
    """(step, metric) -> what metrics.csv says."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(int(float(row["step"])), k): v for row in rows for k, v in row.items() if v and "/" in k}


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


TERM, INT = signal.SIGTERM, signal.SIGINT
PLACES = [
    ("step", 4, (TERM,)), ("step", 6, (TERM,)), ("step", 9, (INT,)), ("step", 13, (TERM, TERM)),
    ("validation", 1, (TERM,)), ("validation", 6, (INT, INT)), ("swap", 1, (TERM,)), ("swap", 4, (TERM, TERM)),
    ("saving", 9, (TERM,)), ("saving", 90, (TERM, INT)), ("renaming", 9, (INT,)),
    ("sampling", 2, (TERM,)), ("sampling", 7, (INT, TERM)),
]  # fmt: skip


def test_t4_preemption(tiny, tmp_path, figure):
    overrides = [*tiny, *RECIPE]
    whole, log = tmp_path / "whole", tmp_path / "log"
    began = time.monotonic()
    assert ended(forked(log, [*overrides, f"hydra.run.dir={whole}"])) == 0, log.read_text()
    duration = time.monotonic() - began
    expected, lines = state(whole), curves(whole)
    pictures = sorted(p.name for p in (whole / "samples").iterdir())
    random.seed(4)
    times = [(random.uniform(0.05, 0.6) * duration, random.choice([(TERM,), (INT,), (TERM, TERM)])) for _ in range(7)]
    steps = []
    for k in range(len(PLACES) + len(times)):
        folder = tmp_path / str(k) / "run"  # no run beside it, on which it might go on
        run = [*overrides, f"hydra.run.dir={folder}"]
        log = tmp_path / f"{k}.log"
        if k < len(PLACES):
            place, call, numbers = PLACES[k]
            pid = forked(log, run, at(place, call, numbers))
        else:
            pause, numbers = times[k - len(PLACES)]
            pid = forked(log, run)
            while k % 3 and not (folder / "metrics.csv").exists():  # two of three strike when it trains
                time.sleep(0.005)
            time.sleep(pause)
            for number in numbers:
                os.kill(pid, number)
        status = ended(pid)
        story = f"{k}: {PLACES[k] if k < len(PLACES) else times[k - len(PLACES)]}\n{log.read_text()}"
        assert status == 128 + numbers[0] or (k >= len(PLACES) and status == 0), story
        files = storage.newest_first(folder / "checkpoints")
        steps.append(storage.load(files[0])["global_step"] if files else 0)
        assert ended(forked(log, [*run, "ckpt=auto"])) == 0, story + log.read_text()
        assert same(state(folder), expected), story
        assert curves(folder) == lines, story
        assert sorted(p.name for p in (folder / "samples").iterdir()) == pictures, story
    assert len(set(steps)) > 5, steps
    figure("preemptions", f"{len(steps)}, {len(steps)} resumed bitwise (at steps {steps})")


def test_t4_two_processes_stop_at_the_same_step(tiny, tmp_path, figure):
    """The first process alone is told; both save, end, and go on as one that was never stopped."""
    overrides = [*tiny, *RECIPE, "data.batch_size=2", "trainer.devices=2"]
    whole, run, log = tmp_path / "a" / "whole", tmp_path / "b" / "run", tmp_path / "log"
    assert ended(forked(log, [*overrides, f"hydra.run.dir={whole}"])) == 0, log.read_text()
    assert ended(forked(log, [*overrides, f"hydra.run.dir={run}"], at("step", 9, (TERM,)))) == 143, log.read_text()
    assert storage.load(run / "checkpoints/last.ckpt")["global_step"] == 5
    assert ended(forked(log, [*overrides, f"hydra.run.dir={run}", "ckpt=auto"])) == 0, log.read_text()
    assert same(state(run), state(whole))
    assert curves(run) == curves(whole)
    figure("two processes, one of them told to end", "both ended at the same step, resumed bitwise")
