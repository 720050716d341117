"""Where a score comes from, the code's version and the checkpoint's bytes, and that a test split is looked at once."""

import hashlib
import json
import subprocess
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

import diffusion
from diffusion.console import console
from diffusion.errors import UserError
from diffusion.files import PACKAGE, replace
from diffusion.metric.features import digest

LOCK = "test.json"


@cache
def code_version() -> str:
    """`0.1.0`, or in a checkout `0.1.0 3f9a71c2d04e` with the commit, and `+` where files were changed since."""
    if not (PACKAGE.parent / ".git").exists():
        return diffusion.__version__
    git = ["git", "-C", str(PACKAGE.parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return diffusion.__version__
    return f"{diffusion.__version__} {commit.stdout[:12]}{'+' if changed.stdout else ''}"


def checkpoint_of(path: Path) -> dict[str, str]:
    """The path of a checkpoint and the SHA-256 of its bytes, 16 digits."""
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}


def network_hash(network: nn.Module) -> str:
    """16 digits of the SHA-256 of a network's weights, as float32: the same in training, and out of any file.

    A checkpoint that was let go since, or never was, is known again by it. (Weights in half precision are exactly those
    that a checkpoint gives back in float32.)
    """
    state = network.state_dict().items()
    return digest({name: value.float() if value.is_floating_point() else value for name, value in state})[:16]


class LooksAtTest:
    """test.json in a run's folder: when its checkpoints were scored on the test split, and what came out.

    The first such score is an honest one. Whoever looks again has seen it, and chooses, knowingly or not, by test. So
    each record of a look says in scores.json the how-manieth it was.
    """

    def __init__(self, run: Path):
        self.path = run / LOCK

    @classmethod
    def beside(cls, ckpt: Path) -> "LooksAtTest":
        """That of the run that a checkpoint belongs to."""
        return cls(ckpt.parent.parent if ckpt.parent.name == "checkpoints" else ckpt.parent)

    def inherit(self, other: "LooksAtTest") -> None:
        """Take over the looks of the run that this one goes on from, unless it has its own."""
        if other.path.is_file() and not self.path.is_file():
            replace(self.path, other.path.read_bytes())

    def looks(self) -> list[dict[str, Any]]:
        """What was scored on test so far. Raises UserError where the record can't be read."""
        if not self.path.is_file():
            return []
        try:
            looks = json.loads(self.path.read_text())
            assert isinstance(looks, list)
        except (ValueError, AssertionError) as error:
            raise UserError(f"{self.path}: not readable as the record of test scores; restore or remove it") from error
        return looks

    def warn(self) -> None:
        """One line, before the work, where this is not the first look."""
        if looks := self.looks():
            console.print(f"warning: {_told(looks)}; of several test scores only the first is honest")

    def refuse(self) -> None:
        """Raises UserError where this would not be the first look."""
        if looks := self.looks():
            raise UserError(
                f"split=test: {_told(looks)}, as {self.path} says; split=val is for choosing; again=true scores the "
                "test split once more, and counts it"
            )

    def add(self, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Note a look, and number its records: those of samples, or of the network, on test, and what is beside them.

        Where it can't be written a line says so.
        """
        on_test = [record["reference"]["split"] == "test" for record in records]
        scored = [r for r, test in zip(records, on_test, strict=True) if test and r["what"] in ("samples", "network")]
        if not scored:
            return list(records)
        first, looks = scored[0], self.looks()
        number = {"look": 1 + len(looks)}
        look = {
            "when": f"{datetime.now():%Y-%m-%d %H:%M}",
            **number,
            **{
                key: first.get(key)
                for key in ("step", "checkpoint", "network_hash", "weights", "sampler", "seed", "n", "code")
            },
            "scores": {r["metric"]: r["value"] for r in scored},
        }
        try:
            replace(self.path, json.dumps([*looks, look], indent=1))
        except OSError as error:
            console.print(f"note: {self.path} can't be written ({error.strerror}): this look at test is not recorded")
        return [record | number if test else record for record, test in zip(records, on_test, strict=True)]


def _told(looks: Sequence[dict[str, Any]]) -> str:
    """When the first of the looks was, and how many there are."""
    first, times = looks[0], f"{len(looks)} time{'s' * (len(looks) > 1)}"
    return f"the test split was scored for this run on {first['when']} (step {first['step']}), and {times} so far"
