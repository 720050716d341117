"""Races: a record is shown by a test that allows more seeds at any time; copies and equal samples do not count."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion.base.files import read_table
from diffusion.errors import UserError
from diffusion.extras import race as extras
from diffusion.extras.race import SECONDS
from diffusion.extras.race import race as run_race
from diffusion.findings import race
from diffusion.findings.race import LEAST, Race, gate, score_of
from diffusion.metric.record import Reference, Score

RESULTS = Path(__file__).parents[2] / "docs/results"


def residuals() -> np.ndarray:
    """The standardised differences of real runs' Fréchet distances from the mean of their recipe's seeds."""
    found: dict[tuple[str, ...], list[float]] = {}
    for table in RESULTS.glob("*/*.csv"):
        for row in read_table(table):
            if row.get("fd_lite0") and row.get("val/mse"):
                recipe = [*row.items()][: [*row].index("seed")]
                found.setdefault((str(table), *map(str, recipe)), []).append(float(row["fd_lite0"]))
    x = [np.array(values) for values in found.values() if len(values) >= LEAST and np.ptp(values) > 0]
    return np.concatenate(
        [(each - each.mean()) / each.std(ddof=1) * (len(each) / (len(each) - 1)) ** 0.5 for each in x]
    )


def test_of_1000_equal_entries_at_most_5_percent_are_false_records_however_many_seeds_they_add():
    real, rng = residuals(), np.random.default_rng(0)
    assert len(real) > 100
    false = 0
    for _ in range(1000):
        holder, entry = rng.choice(real, LEAST), rng.choice(real, 8)
        noise = rng.normal(scale=0.1, size=11)  # no two runs are equal
        holder, entry = holder + noise[:3], entry + noise[3:]
        false += any(Race(entry[:n], holder).record for n in range(LEAST, 9))
    assert 0 < false <= 50


def test_a_better_entry_is_a_record_and_a_slightly_better_one_is_told_how_many_seeds_it_needs():
    holder = [2.1, 2.2, 2.3]
    assert str(Race([1.6, 1.7, 1.65], holder)).startswith("A record: better by 0.55 ±")
    near = Race([2.05, 2.1, 2.15], [2.18, 2.2, 2.22])
    assert not near.record
    assert re.fullmatch(
        r"Not shown to be better: -0\.10\d* ± 0\.\d+; (\d more seeds|1 more seed) would tell\.", str(near)
    )
    assert near.half(3 + near.more) < 0.1 <= near.half(2 + near.more)
    assert "nor would 20 seeds show it" in str(Race([2.3, 2.4, 2.5], holder))


def run(colours: float = -0.1, flagged: int = 0, faults: tuple[str, ...] = (), **config: object) -> SimpleNamespace:
    eyes = {"lite0": {"distance": 4.0, "margin": 1.0}, "colours": {"distance": colours, "margin": 0.1}}
    low = (flagged / 500 - 0.01, flagged / 500 + 0.01)
    source = {"flagged": flagged, "chance": 0.01}
    copies = Score("copies", flagged / 500, 500, reference=Reference("train"), low=low[0], high=low[1], source=source)
    values = {"val": 80.0, "train": 70.0}
    distances = [Score("fd_lite0", value, 500, reference=Reference(split)) for split, value in values.items()]
    return SimpleNamespace(
        referee={"further": {"eyes": eyes}},
        scores=[*distances, copies],
        faults=[{"fault": x} for x in faults],
        config=config,
    )


def test_the_score_is_the_distance_to_the_training_tiles():
    assert score_of(run()) == 70.0


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, ""),
        ({"colours": 0.39}, ""),
        ({"colours": 0.41}, "by colours its samples are further"),
        ({"flagged": 50}, "look like a changed training image"),
        ({"faults": ("alike",)}, "its samples are alike"),
        ({"faults": ("blurred",)}, ""),
        ({"init": "demo"}, "trained outside of the budget"),
        ({"guidance": {"ckpt": "demo"}}, "trained outside of the budget"),
    ],
)
def test_copies_equal_samples_and_weights_from_elsewhere_do_not_count(found, words):
    refused = gate(run(**found))
    assert words in refused
    assert bool(words) == bool(refused)


def test_the_level_of_all_looks_together_is_5_percent():
    assert sum(race.LEVEL / 2 ** (n - LEAST + 1) for n in range(LEAST, 100)) <= race.LEVEL


ENTRY = """# @package _global_
defaults: [demo, _self_]
model: {channels: [8, 16], attention: [false, false]}
sampler: {steps: 2}
optimizer: {lr: %s}
trainer: {max_steps: 12}
"""


def test_an_entry_with_the_name_of_a_bundled_experiment_is_refused(tmp_path):
    (entry := tmp_path / "demo.yaml").write_text(ENTRY % 1e-3)
    with pytest.raises(UserError, match="a bundled experiment has this name"):
        run_race(str(entry), LEAST, tmp_path, 30)


def test_the_commands_of_a_race_name_folders_with_a_comma_whatever_is_in_them(tmp_path, monkeypatch):
    (entry := tmp_path / "tiny.yaml").write_text(ENTRY % 1e-3)
    out, named = tmp_path / 'one, "two"', set()

    def parsed(name: str, words: list[str]) -> None:
        settings = [word for word in words if word.startswith(("ckpt=", "hydra.run.dir="))]
        named.update(each.value() for each in OverridesParser.create().parse_overrides(settings))

    monkeypatch.setattr(extras, "run_command", parsed)
    monkeypatch.setattr(extras, "judged", lambda *_: {"verdict": "record", "words": "A record."})
    run_race(str(entry), LEAST, out, SECONDS)
    folders = [f"{name}-{seed}" for name in ("seed", "test") for seed in range(LEAST)]
    assert named == {"auto", *(str(out / "tiny" / name) for name in folders)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_try_is_no_record_and_a_changed_recipe_needs_another_name(tmp_path):
    (entry := tmp_path / "tiny.yaml").write_text(ENTRY % 1e-3)
    for _ in range(2):  # the second time, its runs are kept
        with pytest.raises(UserError, match="tiny: no record"):
            run_race(str(entry), LEAST, tmp_path, 30)
    found = json.loads((tmp_path / "tiny/race.json").read_text())
    assert found["verdict"] == "try"
    assert [run["steps"] for run in found["runs"]] == [12] * LEAST
    assert all(0 < run["reference_seconds"] < 30 for run in found["runs"])
    entry.write_text(ENTRY % 2e-3)
    again = [sys.executable, "-m", "diffusion", "race", str(entry), "--out", str(tmp_path), "--seconds", "30"]
    done = subprocess.run(again, capture_output=True, text=True)  # another process, as one keeps what it has composed
    assert done.returncode == 2
    assert "seed-0: it was trained with optimizer.lr=0.001, and the entry has 0.002" in done.stderr
