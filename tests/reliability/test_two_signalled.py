"""Two processes: one is signalled or killed at any place; the run goes on bit for bit."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from forked import train
from outcomes import lines, same, state
from places import at

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(400)]  # processes that disagree wait for each other

RECIPE = (  # 2 epochs of 6 steps
    "data.batch_size=2", "data.eval_batch_size=2", "trainer.devices=2", "trainer.max_epochs=2", "model.dropout=0.2",
    "samples.every_n_epochs=1", "samples.n=2", "sampler.steps=4", "checkpoint.every_n_steps=1",
)  # fmt: skip
TERM, KILL = signal.SIGTERM, signal.SIGKILL
PLACES = [  # one after the other: a call of a function since the run was resumed, the process that is signalled
    ("step", 4, 1, KILL),
    ("sampling", 2, 0, TERM),  # pictures, which the first process draws alone
    ("validation", 2, 1, TERM),
]


def outcome(folder: Path) -> dict[str, Any]:
    """The final state, all lines of metrics.csv and all images."""
    pictures = [(file.name, file.read_bytes()) for file in sorted(folder.glob("samples/*"))]
    return state(folder) | {"lines": lines(folder), "pictures": pictures}


def test_two_processes_signalled_or_killed_at_any_place_resume_exactly(tiny, tmp_path):
    whole, log = tmp_path / "whole/run", tmp_path / "log"
    assert train([*tiny, *RECIPE, f"hydra.run.dir={whole}"], log) == 0, log.read_text()
    run = tmp_path / "run"
    again = [f"hydra.run.dir={run}", "ckpt=auto"]
    words = [*tiny, *RECIPE, *again]
    for place, call, rank, number in PLACES:
        killed = number == KILL
        log.unlink()
        assert train(words, log, at(place, call, (number,), rank)) == (1 if killed else 128 + number), log.read_text()
        (run / "signalled").unlink()
        words = again
        assert json.loads((run / "run.json").read_text())["state"] == ("failed" if killed else "interrupted"), place
        assert "Traceback" not in log.read_text()
        if killed:
            (line,) = [line for line in log.read_text().splitlines() if "killed by SIGKILL" in line]
            assert line.startswith("error: process 1 of the run")
            assert f"hydra.run.dir={run} ckpt=auto" in line
        if place == "sampling":
            assert not list(run.glob("samples/*")), "they were finished"
    log.unlink()
    assert train(again, log) == 0, log.read_text()
    got, expected = outcome(run), outcome(whole)
    for part, value in expected.items():
        assert same(got[part], value), part
