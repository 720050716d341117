"""The ledger of evaluations on the test split: only the first one of a run is honest.

Whoever evaluates again has seen the first score and chooses, knowingly or not, by the test images. So every evaluation
is recorded in the run's test.json, and its scores in scores.json say which one it was.
"""

import json
from collections.abc import Sequence
from dataclasses import replace as changed
from datetime import datetime
from pathlib import Path
from typing import Any

from diffusion.console import console
from diffusion.errors import UserError
from diffusion.files import replace
from diffusion.metric.record import Score

LEDGER = "test.json"
KEPT = ("step", "checkpoint", "network_hash", "weights", "sampler", "seed")  # of a score's source


class TestLedger:
    """test.json in a run's folder: when its checkpoints were evaluated on the test split, and with what result."""

    __test__ = False  # for pytest

    def __init__(self, run: Path):
        self.path = run / LEDGER

    @classmethod
    def beside(cls, ckpt: Path) -> "TestLedger":
        """The ledger of the run that a checkpoint belongs to."""
        return cls(ckpt.parent.parent if ckpt.parent.name == "checkpoints" else ckpt.parent)

    def inherit(self, other: "TestLedger") -> None:
        """Copy the ledger of the run that this one is resumed from, unless this one has its own."""
        if other.path.is_file() and not self.path.is_file():
            replace(self.path, other.path.read_bytes())

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations so far. Raises UserError where the ledger cannot be read."""
        if not self.path.is_file():
            return []
        try:
            evaluations = json.loads(self.path.read_text())
            assert isinstance(evaluations, list)
        except (ValueError, AssertionError) as error:
            raise UserError(f"{self.path}: not readable as the ledger of test scores; restore or remove it") from error
        return evaluations

    def warn(self) -> None:
        """One line, before the work, where this would not be the first evaluation."""
        if evaluations := self.evaluations():
            console.print(f"warning: {_history(evaluations)}; of several test scores only the first is honest")

    def refuse(self) -> None:
        """Raise UserError where this would not be the first evaluation."""
        if evaluations := self.evaluations():
            raise UserError(
                f"split=test: {_history(evaluations)}, as {self.path} says; split=val is for choosing; again=true "
                "evaluates on the test split once more, and counts it"
            )

    def record(self, scores: Sequence[Score]) -> list[Score]:
        """Record an evaluation, if `scores` has scores of samples or of the network on test; the scores, numbered."""

        def on_test(score: Score) -> bool:
            return score.reference is not None and score.reference.split == "test"

        scored = [score for score in scores if on_test(score) and score.what in ("samples", "network")]
        if not scored:
            return list(scores)
        first, before = scored[0], self.evaluations()
        number = {"test_evaluation": 1 + len(before)}
        entry = {
            "when": f"{datetime.now():%Y-%m-%d %H:%M}",
            **number,
            **{key: first.source.get(key) for key in KEPT},
            "n": first.n,
            "code": first.code,
            "scores": {score.metric: score.value for score in scored},
        }
        try:
            replace(self.path, json.dumps([*before, entry], indent=1))
        except OSError as error:
            console.print(f"note: {self.path} can't be written ({error.strerror}): this evaluation is not recorded")
        return [changed(s, source={**s.source, **number}) if on_test(s) else s for s in scores]


def _history(evaluations: Sequence[dict[str, Any]]) -> str:
    """When the first evaluation was, and how many there have been."""
    first, times = evaluations[0], f"{len(evaluations)} time{'s' * (len(evaluations) > 1)}"
    return f"the test split was evaluated for this run on {first['when']} (step {first['step']}), {times} so far"
