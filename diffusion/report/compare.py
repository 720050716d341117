"""Compare runs: a row per recipe, a column per quantity and protocol. Different protocols are refused.

Runs that differ only in their seed share a row. If several runs have the same recipe and seed, only the newest counts.
Evaluations of one model with several sampling seeds count as one training seed. The scored images of two rows may have
been made in different ways (by another sampler, for example); a warning says so if the settings in the table do not.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from diffusion.errors import UserError
from diffusion.metric.record import Score
from diffusion.report.differences import differing, labels
from diffusion.report.formatting import MISSING, half_width, protocol_text, sampler_text
from diffusion.report.recipes import Column, Comparison, Row
from diffusion.runs.folder import PARTS, SCORES, Run, command_of, is_run, jobs_of
from diffusion.runs.metrics import measures, validated_weights
from diffusion.runs.record import RunRecord

ERRORS = ("val/mse", "fit/mse", "gap/mse")
# Settings that do not distinguish recipes: seeds, and settings that affect a number only through its protocol:
IDLE = (
    "seed", "name", "logger", "samples", "score", "again", "checkpoint", "sweep", "audit", "baselines", "batch_size",
    "bits", "by_class", "device", "devices",
)  # fmt: skip
# The parts that must be equal in a row, and the beginnings of the settings that choose them:
CHOSEN_BY = {
    "sampler": ("sampler",),
    "guidance": ("guidance",),
    "precision": ("precision",),
    "weights": ("weights", "ema"),
    "variance": ("likelihood", "sampler.variance", "objective", "model.out_channels"),
}
BEST = "best.ckpt"  # its step differs between seeds
# The parts of a score's source that say who made the images:
MAKERS = ("sampler", "guidance", "precision", "weights", "seed", "folder", "checkpoint", "variance")


def gather(folders: Iterable[Path]) -> list[Run]:
    """Collect the runs in `folders`, each the folder of a run or of a sweep; in order, without duplicates."""
    runs: dict[Path, Run] = {}
    for folder in folders:
        found = [Run(folder)] if is_run(folder) else comparable(folder)
        if not found:
            raise UserError(
                f"{folder}: neither a run (it has none of {', '.join(PARTS)}) nor a sweep (no run in its sub-folders); "
                "choose a folder written by python -m diffusion.train"
            )
        runs |= {run.folder.resolve(): run for run in found}
    return list(runs.values())


def comparable(folder: Path) -> list[Run]:
    """The training runs, evaluations and studies in the subfolders of `folder`; samples and edits have no numbers."""
    return [run for run in jobs_of(folder) if command_of(run.folder) not in ("sample", "edit")]


def compare(runs: Sequence[Run], mixed: bool = False) -> Comparison:
    """Compare `runs`.

    Raises UserError if scores of one metric have different protocols; the message names the differences. With `mixed`,
    each protocol becomes a separate column, ranked on its own.
    """
    left_out = [(run, reason) for run in runs if (reason := unusable(run))]
    used = [run for run in runs if not unusable(run)]
    settings = _distinguishing(used)
    values: dict[Run, dict[str, float]] = {}
    halves: dict[tuple[Run, str], float] = {}
    trained = {run: run.trained for run in used if run.trained is not None}
    rows: dict[tuple[str, ...], Row] = {}
    for i, (run, label) in enumerate(zip(used, labels(settings, len(used)), strict=True)):
        chosen = {key: column[i] for key, column in settings.items()}
        rows.setdefault(tuple(chosen.values()), Row(chosen, label, values, halves, [], trained)).runs.append(run)
    for row in rows.values():
        row.runs, older = _newest_of_each_seed(row.runs)
        left_out += older
        values |= {run: {} for run in row.runs}
    warnings = _mixed_steps(rows.values())
    columns = _errors(values, settings) + _scores(values, halves, mixed, [*rows.values()], warnings)
    for run, numbers in values.items():
        if run.info.get("seconds") is not None:
            numbers["seconds"] = float(run.info["seconds"])
    columns.append(Column("seconds", None, "seconds: duration of a run, training to report, over all its starts"))
    columns = [column for column in columns if any(column.name in numbers for numbers in values.values())]
    return Comparison(list(runs), list(rows.values()), columns, left_out, warnings)


def unusable(run: Run) -> str | None:
    """The reason why a run cannot be compared (it is not complete), or None."""
    if run.state == "complete":
        return None
    if (command := command_of(run.folder)) != "train":
        return f"an output of diffusion.{command} without scores"
    state = RunRecord(run.folder).state  # knows whether its process has died
    return f"{state}: {run.info['reason']}" if run.info.get("reason") else state


def _distinguishing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that distinguish recipes: those that differ, except seeds and settings that affect no number.

    `ckpt`, the evaluated checkpoint, is blank for training runs. The step of a checkpoint is shown only if one training
    seed has checkpoints of two steps with the same name, because the step of best.ckpt differs between seeds anyway.
    """
    found = {key: column for key, column in differing(runs).items() if key.split(".")[0] not in IDLE}
    if "ckpt" in found:
        column = [MISSING if "trainer" in run.config else name for run, name in zip(runs, found["ckpt"], strict=True)]
        found = {key: value for key, value in (found | {"ckpt": column}).items() if len(set(value)) > 1}
    steps = found.pop("step", None)
    if steps:
        draws = list(zip(*found.values(), [str(run.trained) for run in runs], strict=True))
        if len(set(zip(draws, steps, strict=True))) > len(set(draws)):
            found["step"] = steps
    return found


def _newest_of_each_seed(runs: Sequence[Run]) -> tuple[list[Run], list[tuple[Run, str]]]:
    """Split the runs of a recipe: the newest run of each seed, and the others with the reason why they are left out."""
    newest: dict[Any, Run] = {}
    for run in runs:
        key = run.seeds or run.folder
        newest[key] = max(run, newest.get(key, run), key=_finished)
    kept = {run.folder for run in newest.values()}
    older = [run for run in runs if run.folder not in kept]
    return list(newest.values()), [(run, f"same recipe and seed as {newest[run.seeds].folder}") for run in older]


def _finished(run: Run) -> float:
    """When a training run finished, or when the last score of another one was written, in seconds; 0 if unknown."""
    try:
        return datetime.fromisoformat(run.info["finished"]).timestamp()
    except (LookupError, TypeError, ValueError):
        scores = run.folder / SCORES
        return scores.stat().st_mtime if scores.is_file() else 0.0


def _mixed_steps(rows: Iterable[Row]) -> list[str]:
    """A warning for each row whose seeds were trained for different numbers of steps."""
    found = []
    for row in rows:
        if steps := _different((_steps(run), run) for run in row.runs):
            found.append(f"seeds in one row were trained for different numbers of steps: {steps}")
    return found


def _steps(run: Run) -> Any:
    """The number of training steps of a run, or of its checkpoint; None if unknown, and for best.ckpt."""
    if "trainer" in run.config:
        return run.info.get("steps")
    return run.config.get("step") if Path(str(run.config.get("ckpt"))).name != BEST else None


def _different(values: Iterable[tuple[object, Run]]) -> str:
    """`A in RUN and B in RUN`: the different values, each with its first run; "" if there is one. None is skipped."""
    first: dict[object, Run] = {}
    for value, run in values:
        if value is not None:
            first.setdefault(value, run)
    return " and ".join(f"{value} in {run.folder}" for value, run in first.items()) if len(first) > 1 else ""


def _errors(values: dict[Run, dict[str, float]], settings: Iterable[str]) -> list[Column]:
    """Fill in the final denoising errors. They are ranked only if data, schedule and validated images are the same."""
    for run, numbers in values.items():
        numbers |= {name: float(run.metrics[name].value[-1]) for name in ERRORS if name in run.metrics}
    limited = any((run.config.get("trainer") or {}).get("limit_val_batches") is not None for run in values)
    different = [key for key in settings if measures(key, limited)]
    why = ""
    if different:
        verb = "differ" if len(different) > 1 else "differs"
        why = f"; not ranked, because {', '.join(different)} {verb}, and with it what is measured"
    weights = validated_weights(run.metrics for run in values)
    words = {
        "val/mse": f"val/mse: denoising MSE on validation images, {weights}, at the end{why}",
        "fit/mse": "fit/mse: the same on as many training images; not ranked, since over-fitting lowers it too",
        "gap/mse": "gap/mse: val/mse − fit/mse, which grows with over-fitting",
    }
    return [Column(name, True if name == "val/mse" and not different else None, words[name]) for name in ERRORS]


def _scores(
    values: dict[Run, dict[str, float]],
    halves: dict[tuple[Run, str], float],
    mixed: bool,
    rows: Sequence[Row],
    warnings: list[str],
) -> list[Column]:
    """Fill in the latest scores, one column per metric and protocol, and append warnings about them."""
    measured = ("samples", "images", "network")
    scored = [(run, s) for run in values for s in run.scores if s.what in measured and not math.isnan(s.value)]
    several = _several_makers(scored, mixed)
    found: dict[str, dict[Run, Score]] = {}  # column -> run -> score
    for run, score in scored:
        made = maker(score)
        column = json.dumps([score.protocol_key, {part: made.get(part) for part in several[score.protocol_key]}])
        found.setdefault(column, {})[run] = score
    last = [(run, score) for by_run in found.values() for run, score in by_run.items()]
    examples = [next(iter(by_run.values())) for by_run in found.values()]
    metrics = [score.name for score in examples]
    for metric in dict.fromkeys(metrics):
        if metrics.count(metric) > 1 and not mixed:
            _refuse(metric, [(run, score) for run, score in last if score.name == metric])
    columns = []
    for i, (score, by_run) in enumerate(zip(examples, found.values(), strict=True), start=1):
        name = score.name if metrics.count(score.name) == 1 else f"{score.name} [{i}]"
        for run, other in by_run.items():
            values[run][name], halves[run, name] = other.value, half_width(other)
        higher, made = score.higher_is_better, maker(score)
        by = "".join(f"; {part} {made[part]}" for part in several[score.protocol_key] if part in made)
        columns.append(Column(name, None if higher is None else not higher, f"{name}: {protocol_text(score)}{by}"))
    warnings += [*_different_makers(rows, found.values()), *_warnings(len(rows), last)]
    return columns


def maker(score: Score) -> dict[str, str]:
    """The origin of a score's images, as text: the sampler and other `MAKERS` that are known."""
    usual = {"guidance": "none", "precision": "float32"} if "sampler" in score.source else {}
    source = {**usual, **score.source, "checkpoint": (score.source.get("checkpoint") or {}).get("path")}
    parts = {part: source.get(part) for part in MAKERS}
    return {p: sampler_text(v) if isinstance(v, Mapping) else str(v) for p, v in parts.items() if v is not None}


def _different_makers(rows: Sequence[Row], columns: Iterable[Mapping[Run, Score]]) -> list[str]:
    """Warnings about images made in different ways: within a row, and between rows if no setting in the table shows it.

    Args:
        columns: the scores of each column, by run.
    """
    settings = [key for first in rows[:1] for key in first.settings]
    shown = [key for key in settings if len({row.settings[key] for row in rows} - {MISSING}) > 1]
    found: dict[str, None] = {}
    for scores in columns:
        made = {run: maker(score) for run, score in scores.items()}
        hidden = [part for part, keys in CHOSEN_BY.items() if not any(key.startswith(keys) for key in shown)]
        for row in rows:
            within = _differences({run: made[run] for run in row.runs if run in made}, CHOSEN_BY)
            hidden = [part for part in hidden if part not in within]
            if within:
                found[f"scores in one row were not made in the same way: {'; '.join(within.values())}"] = None
        if between := _differences(made, hidden):
            listed = "; ".join(between.values())
            found[f"rows were not made in the same way, and their settings do not show it: {listed}"] = None
    return [*found]


def _differences(made: Mapping[Run, Mapping[str, str]], parts: Iterable[str]) -> dict[str, str]:
    """Part -> its values, each with an example run, for the parts in which the known makers of runs differ."""
    values = {part: _different((known.get(part), run) for run, known in made.items()) for part in parts}
    return {part: f"{part} is {different}" for part, different in values.items() if different}


def _several_makers(scored: Sequence[tuple[Run, Score]], mixed: bool) -> dict[str, list[str]]:
    """Protocol key -> the parts of `maker` in which scores from one folder differ.

    (Scores of one run at several steps have the same maker, and the last one counts.) With several makers it is unclear
    which one is meant, so this raises UserError unless `mixed`.
    """
    found: dict[str, list[str]] = {score.protocol_key: [] for _, score in scored}
    groups: dict[tuple[Run, str], list[Score]] = {}
    for run, score in scored:
        groups.setdefault((run, score.protocol_key), []).append(score)
    for (run, protocol), scores in groups.items():
        made = [maker(score) for score in scores]
        values = {part: list(dict.fromkeys(parts[part] for parts in made if part in parts)) for part in MAKERS}
        several = {part: names for part, names in values.items() if len(names) > 1}
        if several and not mixed:
            listed = "; ".join(f"{part} is {' and '.join(names)}" for part, names in several.items())
            raise UserError(
                f"{run.folder}: {scores[0].name} was measured several times, and {listed}: add --mixed for separate "
                "columns, or score into separate folders (a study has its own table)"
            )
        found[protocol] += [part for part in several if part not in found[protocol]]
    return found


def _refuse(metric: str, scored: Sequence[tuple[Run, Score]]) -> None:
    """Raise UserError that lists the differences between the protocols of one metric, with an example run per value."""
    differences = []
    for key in dict.fromkeys(key for _, score in scored for key in score.protocol):
        if values := _different((str(score.protocol.get(key)), run) for run, score in scored):
            differences.append(f"{key} is {values}")
    raise UserError(
        f"{metric} was measured under different protocols and can't be ranked: {'; '.join(differences)}; score them "
        "under one protocol with python -m diffusion.evaluate, or add --mixed for separate columns"
    )


def _warnings(recipes: int, scored: Sequence[tuple[Run, Score]]) -> list[str]:
    """Warnings about scores: selection by test scores, repeated test evaluations, different versions of the code."""
    found = []
    tests = {score.metric for _, score in scored if score.on_test}
    if tests and recipes > 1:
        found.append(
            f"{', '.join(sorted(tests))}: choosing among {recipes} recipes by their test scores makes the winner's "
            "score too good; choose on the validation split, and score only the chosen one on test"
        )
    steps = {run: (score.source.get("step"), run.info.get("steps")) for run, score in scored if score.what == "samples"}
    found += [
        f"{run.folder}: its scores are those of step {step}, but its training ended at step {last}"
        for run, (step, last) in steps.items()
        if None not in (step, last) and step != last
    ]
    numbers: dict[Run, int] = {}
    for run, score in scored:
        numbers[run] = max(numbers.get(run, 1), score.source.get("test_evaluation") or 1)
    if again := [f"{run.folder} (test evaluation {number})" for run, number in numbers.items() if number > 1]:
        found.append(f"{', '.join(again)}: not the first test evaluation of its run; only the first is unbiased")
    if versions := _different((score.code or None, run) for run, score in scored):
        found.append(f"the scores were made by different versions of the code: {versions}")
    return found
