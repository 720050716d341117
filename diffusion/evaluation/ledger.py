"""The ledger of a run's evaluations on the test split. Only the first evaluation is unbiased.

After the first score, further choices depend on the test images, knowingly or not. So every evaluation is recorded in
the run's test.json, and its scores in scores.json carry its number, `test_evaluation`.
"""

import json
from collections.abc import Sequence
from dataclasses import replace as changed
from datetime import datetime
from pathlib import Path
from typing import Any

from diffusion.checkpoint import early
from diffusion.console import console, count
from diffusion.errors import UserError
from diffusion.files import replace
from diffusion.metric.record import Score

FILE = "test.json"
KEPT = ("step", "checkpoint", "network_hash", "weights", "sampler", "guidance", "seed")  # keys of a score's source


class Ledger:
    """test.json in a run's folder: the date and result of each evaluation of its checkpoints on the test split."""

    def __init__(self, run: Path):
        self.path = run / FILE

    @classmethod
    def of(cls, ckpt: Path) -> "Ledger":
        """The ledger of the run that a checkpoint or a file of early weights belongs to."""
        return cls(early.run_of(ckpt))

    def inherit(self, other: "Ledger") -> None:
        """Copy the ledger of the run that this run is resumed from, unless this run already has one."""
        if other.path.is_file() and not self.path.is_file():
            replace(self.path, other.path.read_bytes())

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations so far. Raises UserError if the ledger cannot be read."""
        try:
            found: list[dict[str, Any]] = json.loads(self.path.read_text("utf-8")) if self.path.is_file() else []
        except ValueError as error:
            raise UserError(f"{self.path}: not readable as a list of test scores; restore or remove it") from error
        return found

    def check(self, again: bool) -> None:
        """Raise UserError, or with `again` print a warning, if there are evaluations already."""
        if not (history := self.evaluations()):
            return
        times = f"{count(len(history), 'time')} so far, first on {history[0]['when']} (step {history[0]['step']})"
        if not again:
            raise UserError(
                f"split=test: this run was evaluated on it {times}, says {self.path}; use split=val for model "
                "selection; again=true evaluates on the test split once more, and records it"
            )
        console.print(
            f"warning: the run was evaluated on the test split {times}; only the first test score is unbiased"
        )

    def record(self, scores: Sequence[Score]) -> list[Score]:
        """Record an evaluation if `scores` contain any of samples or the network on test; returns numbered scores."""
        on_test = [score for score in scores if score.on_test and score.what in ("samples", "network")]
        if not on_test:
            return list(scores)
        first, before = on_test[0], self.evaluations()
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
            replace(self.path, json.dumps([*before, entry], indent=1))
        except OSError as error:  # the folder of somebody else's run
            console.print(f"note: {self.path} can't be written ({error.strerror}): this evaluation is not recorded")
        return [changed(s, source={**s.source, **number}) if s.on_test else s for s in scores]
