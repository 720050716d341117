"""The ledger of a run's evaluations on the test split: test.json in its folder. Only the first one is unbiased.

Every evaluation is recorded, and its scores in scores.json carry its number, `test_evaluation`.
"""

import json
from collections.abc import Sequence
from dataclasses import replace as changed
from datetime import datetime
from pathlib import Path
from typing import Any

from diffusion.console import console, count
from diffusion.errors import UserError
from diffusion.files import replace
from diffusion.metric.record import Score

FILE = "test.json"
KEPT = ("step", "checkpoint", "network_hash", "weights", "sampler", "guidance", "seed")  # keys of a score's source


def evaluations(run: Path) -> list[dict[str, Any]]:
    """The evaluations of a run's checkpoints on the test split."""
    file = run / FILE
    found: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.is_file() else []
    return found


def inherit(run: Path, other: Path) -> None:
    """Copy the ledger of the run that this run is resumed from, unless this run already has one."""
    if (other / FILE).is_file() and not (run / FILE).is_file():
        replace(run / FILE, (other / FILE).read_bytes())


def check(run: Path, again: bool) -> None:
    """Raise UserError, or with `again` print a warning, if the run was evaluated on the test split already."""
    if not (history := evaluations(run)):
        return
    times = f"this run was evaluated on it {count(len(history), 'time')}, first on {history[0]['when']}"
    if not again:
        raise UserError(
            f"split=test: {times}, says {run / FILE}; use split=val for model selection; again=true evaluates on the "
            "test split once more, and records it"
        )
    console.print(f"warning: split=test: {times}; only the first test score is unbiased")


def record(run: Path, scores: Sequence[Score]) -> list[Score]:
    """Record an evaluation if `scores` contain any of samples or the network on test; returns numbered scores."""
    on_test = [score for score in scores if score.on_test and score.what in ("samples", "network")]
    if not on_test:
        return list(scores)
    first, before = on_test[0], evaluations(run)
    number = {"test_evaluation": 1 + len(before)}
    entry = {
        "when": f"{datetime.now():%Y-%m-%d %H:%M}",
        **number,
        **{key: first.source.get(key) for key in KEPT},
        "n": first.n,
        "code": first.code,
        "scores": {score.metric: score.value for score in on_test},
    }
    try:
        replace(run / FILE, json.dumps([*before, entry], indent=1))
    except OSError as error:  # the folder of somebody else's run
        console.print(f"note: {run / FILE} can't be written ({error.strerror}): this evaluation is not recorded")
    return [changed(score, source={**score.source, **number}) if score.on_test else score for score in scores]
