"""The verdict on a comparison: on the published studies it agrees with their answers in docs/results/README.md."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from diffusion.extras.reproduce import committed
from diffusion.findings.compare import Column, Comparison, Row
from diffusion.findings.ranking import ranking
from diffusion.metric.record import Reference, Score


@dataclass(eq=False)
class Made:
    """In place of a run."""

    seeds: tuple[int, ...]
    overrides: list[str]
    command: str
    state: str = "complete"
    folder: Path = Path("run")
    commands: Any = ()
    own: tuple[str, ...] = ()
    info: Any = field(default_factory=dict)
    faults: Any = ()
    scores: Any = ()
    config: Any = field(default_factory=lambda: {"ckpt": "models/0"})
    settings: Any = field(default_factory=lambda: {"trainer": {"max_steps": 2000}})


def study(name: str, seeds: str = "012") -> Comparison:
    """A committed table as a comparison of the runs with these seeds."""
    sweep, _, table = name.partition("/")
    (file,) = [path for path in committed(sweep) if path.stem == (table or "train")]
    with file.open(encoding="utf-8", newline="") as opened:
        lines = [line for line in csv.DictReader(opened) if line["seed"][0] in seeds]
    names = [*lines[0]]
    settings, metrics = names[: names.index("seed")], names[names.index("seed") + 1 :]
    rows: dict[tuple[str, ...], Row] = {}
    values: dict[str, Any] = {metric: {} for metric in metrics}
    for line in lines:
        recipe = {key: line[key] for key in settings}
        words = [f"{key}={value}" for key, value in recipe.items() if value != "—"]
        made = [*words, f"seed={line['seed'][0]}"]
        run = Made((*map(int, line["seed"].split("/")),), made, ("train", "evaluate")["/" in line["seed"]])
        rows.setdefault(tuple(recipe.values()), Row(recipe, [])).runs.append(run)  # type: ignore[arg-type]
        for metric in metrics:
            if line[metric]:
                values[metric][run] = float(line[metric])
    listed = [*rows.values()]
    better = {name: Score(name.removeprefix("train/"), 0.0).higher_is_better for name in metrics}
    return Comparison(settings, listed, [Column(name, better[name], "", values[name], listed) for name in metrics], [])


@pytest.mark.parametrize(
    ("name", "best", "tests", "words"),
    [
        ("schedule", "schedule=sigmoid", "open", "2 of 4 others. Not told apart from it: schedule=cosine"),
        ("optimizer", "optimizer=muon, optimizer.lr=0.003", "open", "than 7 of 8 others. Not told apart from it:"),
        ("batch/epochs", "data.batch_size=8", "shown", "every other recipe."),
        ("batch/steps", "data.batch_size=32", "shown", "every other recipe."),
        ("recipe", "prediction=v, objective.weighting=sig", "open", "it: prediction=v, objective.weighting=min_snr"),
        ("recipe/lengths", "weights=0.02", "open", "weights=raw; weights=0.05"),
        ("architecture", "model=dit_tiny, model.patch=4", "open", "model=unet_tiny"),
        ("photographs", "data.limit=300", "open", "So its first place may be chance."),
        ("continuous", "schedule=vp, prediction=eps", "open", "schedule=linear, prediction=eps, "),
        ("variance/whole_fixed", "sampler.variance=fixed_small", "open", "sampler.variance=fixed_large, likelihood"),
        ("variance/few_fixed", "sampler.steps=100, sampler.variance=fixed_small", "shown", "every other recipe."),
        ("samplers/samplers", "sampler=ancestral, sampler.steps=25, sampler.grid=l", "shown", "every other recipe."),
        ("memoire_narrow", "schedule=sigmoid", "untested", "another seed may change the order."),
        ("demo/drawn", "sampler=DPMSolver, guidance=WindowGuidance", "open", "guidance.scale=1.5;"),
    ],
)  # fmt: skip
def test_the_verdict_on_a_published_study_agrees_with_its_answer(name: str, best: str, tests: str, words: str) -> None:
    comparison = study(name)
    _, headline, findings, *_ = ranking(comparison, Path("sweep"))
    assert headline.startswith("No recipe is shown to be best. " * (tests != "shown") + best)
    assert {"open", "shown", "untested"} & {*findings} == {tests}
    assert words in findings[tests]


@pytest.mark.parametrize(
    ("name", "seeds", "step", "command"),
    [
        ("schedule", "012", "more seeds", "diffusion train schedule=sigmoid schedule.steps=1000 -m seed=3,4,5"),
        ("batch/steps", "0", "more seeds", "diffusion train data.batch_size=16 -m seed=1,2"),
        ("batch/steps", "012", "twice as long", "diffusion train data.batch_size=32 seed=0 trainer.max_steps=4000"),
        ("samplers/samplers", "012", "Draw", "diffusion sample ckpt=models/0 sampler=ancestral sampler.steps=25"),
    ],
)
def test_the_next_step_follows_from_what_is_open(name: str, seeds: str, step: str, command: str) -> None:
    found = ranking(study(name, seeds), Path("sweep"))
    assert step in found.step.words
    assert command in found.step.line
    assert all(line.startswith("  ") for line in str(found).partition("Next: ")[2].splitlines()[1:])


def test_scored_images_without_a_model_have_no_next_step() -> None:
    comparison = study("samplers/samplers")
    for _, run in comparison.runs:
        run.config = {"ckpt": None, "images": "photos"}
    assert "has the lowest" in ranking(comparison, Path()).headline
    assert not ranking(comparison, Path()).step.commands
    assert not ranking(comparison._replace(columns=[]), Path()).step.commands


def test_recipes_that_are_all_like_noise_are_trained_for_longer_and_not_ranked() -> None:
    comparison = study("batch/steps", "0")
    for _, run in comparison.runs:
        ends, against = {"samples": (276.0, 270, 282), "noise": (271.0, 268, 274)}, Reference("val", 250)
        run.scores = [Score("fd_lite0", v, 250, what, against, low=a, high=b) for what, (v, a, b) in ends.items()]
    found = ranking(comparison, Path("sweep"))
    assert found.step.words == "Train for longer: the best is not shown to be better than noise."
    assert "trainer.max_steps=4000" in found.step.commands[0]
    assert "not ranked" in found.headline


def test_what_speaks_against_the_best_is_said() -> None:
    assert (
        ranking(study("demo/drawn"), Path()).findings["train/recall_lite0"].endswith("scale=3 is shown to be better.")
    )
    assert "precision_lite0 (shown by tests), coverage" in ranking(study("schedule"), Path()).findings["agree"]
    narrow = study("memoire_narrow")
    narrow.rows[1].runs[0].faults = [{"fault": "blur"}]
    findings = ranking(narrow, Path()).findings
    assert findings["copies"].endswith("its samples: 1.8%.")
    assert findings["faults"] == "But its samples have faults. They are blurred."


def test_a_distance_ranks_in_whatever_order_the_runs_have_their_scores() -> None:
    comparison = study("schedule")
    other = comparison._replace(columns=comparison.columns[::-1])
    assert comparison.main
    assert other.main
    assert {comparison.main.higher, other.main.higher} == {False}
