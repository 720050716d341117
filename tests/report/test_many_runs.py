"""The work to compare runs grows linearly with their number, and the result equals that of comparing all pairs."""

import sys
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from diffusion.report.compare import compare
from diffusion.report.comparison import by_run
from diffusion.report.differences import differing
from diffusion.report.page.comparison import runs_of
from diffusion.runs.folder import jobs_of


@dataclass(frozen=True)
class Described:
    """Settings with one choice, `a`, its setting `a.x`, and another setting."""

    settings: dict[str, Any]
    overrides: list[str]
    folder: Path = Path("runs/run")
    choices: dict[str, str] = field(default_factory=dict)
    resolved: bool = True


def described(choice: str, x: int, beside: int, overridden: bool) -> Described:
    return Described({"a": {"_target_": choice, "x": x}, "b": beside}, ["a.x=1"] * overridden)


runs = st.lists(
    st.builds(described, st.sampled_from("pqr"), st.integers(0, 2), st.integers(0, 1), st.booleans()),
    min_size=1, max_size=7,
)  # fmt: skip


@given(runs)
def test_differing_settings_match_a_comparison_of_all_pairs_of_runs(found: list[Described]) -> None:
    pairs = [*combinations(found, 2)]
    wanted = set()
    for first, second in pairs:
        (a, b), (c, d) = ((each.settings["a"], each.settings["b"]) for each in (first, second))
        wanted |= {"a"} if a["_target_"] != c["_target_"] else set()
        wanted |= {"b"} if b != d else set()
        equal = a["_target_"] == c["_target_"] or any(each.overrides for each in found)
        wanted |= {"a.x"} if a["x"] != c["x"] and equal else set()
    assert differing(found).keys() == wanted


def write_runs(folder: Path, n: int) -> Path:
    """Write n runs with different learning rates."""
    for i in range(n):
        (run := folder / str(i)).mkdir(parents=True)
        run.joinpath("config.yaml").write_text(f"seed: 0\nlr: {i}\nschedule:\n  _target_: linear\n  steps: {i % 7}\n")
        run.joinpath("run.json").write_text('{"state": "complete", "seconds": 1.0}')
    return folder


def operations(folder: Path) -> int:
    """The number of bytecode operations to compare the runs in a folder and to make the tables."""
    found, made = jobs_of(folder), 0
    for run in found:
        run.settings  # noqa: B018  reading it is another matter

    def count(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal made
        frame.f_trace_opcodes = True
        made += event == "opcode"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        comparison = compare(found)
        by_run(comparison)
        runs_of(comparison, folder)
    finally:
        sys.settrace(before)
    return made


def test_the_operations_of_a_comparison_grow_linearly_with_the_runs(tmp_path: Path) -> None:
    operations(write_runs(tmp_path / "first", 4))  # imports, and fills caches
    few, some, many = (operations(write_runs(tmp_path / str(n), n)) for n in (30, 60, 120))
    assert many - some < 2.1 * (some - few)
