"""Two processes: one is signalled at any place, or killed; the run goes on bit for bit."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from forked import train
from outcomes import lines, same, state
from places import at

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(400)]  # processes that disagree wait for each other

RECIPE = (
    "data.batch_size=2", "data.eval_batch_size=2", "trainer.devices=2", "trainer.max_epochs=2", "model.dropout=0.2",
    "samples.every_n_epochs=1", "samples.n=2", "sampler.steps=4", "checkpoint.every_n_steps=1",
)  # fmt: skip
PLACES = {  # a call of a function in one process, which receives SIGTERM
    "before the first step": ("beginning", 1, 0),
    "pictures, which the first process draws alone": ("sampling", 2, 0),
    "validation": ("validation", 2, 1),
}


def outcome(folder: Path) -> dict[str, Any]:
    """The final state, all lines of metrics.csv and all images."""
    pictures = [(file.name, file.read_bytes()) for file in sorted(folder.glob("samples/*"))]
    return state(folder) | {"lines": lines(folder), "pictures": pictures}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    assert train([*tiny, *RECIPE, f"hydra.run.dir={folder}/run"], folder / "log") == 0, (folder / "log").read_text()
    return outcome(folder / "run")


def test_two_processes_signalled_at_any_place_resume_exactly(tiny, tmp_path, figure, whole):
    run, log = tmp_path / "run", tmp_path / "log"
    again = [f"hydra.run.dir={run}", "ckpt=auto"]
    words = [*tiny, *RECIPE, *again]
    for where, (place, call, rank) in PLACES.items():
        assert train(words, log, at(place, call, (signal.SIGTERM,), rank)) == 143, log.read_text()
        (run / "signalled").unlink()
        words = again
        assert json.loads((run / "run.json").read_text())["state"] == "interrupted", where
        if "pictures" in where:
            assert not list(run.glob("samples/*")), "they were finished"
    assert train(words, log) == 0, log.read_text()
    got = outcome(run)
    for part, expected in whole.items():
        assert same(got[part], expected), part
    assert "Traceback" not in log.read_text()
    figure("two processes signalled", f"at {len(PLACES)} places one after the other, resumed bitwise")


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_killed_process_ends_the_run_or_starts_it_again(tiny, tmp_path, figure, whole, restarts):
    run, log = tmp_path / "run", tmp_path / "log"
    words = [*tiny, *RECIPE, f"hydra.run.dir={run}", f"restarts={restarts}"]
    status = train(words, log, at("step", 6, (signal.SIGKILL,), rank=1))
    (line,) = [line for line in log.read_text().splitlines() if "killed by SIGKILL" in line]
    assert "Traceback" not in log.read_text()
    if restarts == 0:
        assert status == 1
        assert line.startswith("error: process 1 of the run: killed by SIGKILL")
        assert f"hydra.run.dir={run} ckpt=auto" in line
        record = json.loads((run / "run.json").read_text())
        assert (record["state"], record["steps"]) == ("failed", 5)
        assert train([f"hydra.run.dir={run}", "ckpt=auto"], log) == 0, log.read_text()
    else:
        assert status == 0, log.read_text()
        assert "resuming from" in log.read_text()
    got = outcome(run)
    for part, expected in whole.items():
        assert same(got[part], expected), part
    figure("one of two processes killed", "the run goes on bitwise, by a command or by itself (restarts=1)")
