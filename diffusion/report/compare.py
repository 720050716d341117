"""Compare runs: a row per recipe, a column per quantity and protocol. Different protocols are refused.

Runs that differ only in their seed share a row. If several runs have the same recipe and seed, only the newest counts.
Evaluations of one model with several sampling seeds count as one training seed.
"""

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
SAME = ("seed", "name")  # settings that may differ between the runs of a recipe
BEST = "best.ckpt"  # its step differs between seeds


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
    steps = (_different((_steps(run), run) for run in row.runs) for row in rows.values())
    warnings = [f"seeds in one row were trained for different numbers of steps: {each}" for each in steps if each]
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
    """The settings that distinguish recipes: those that differ, except the seed and the name.

    `ckpt`, the evaluated checkpoint, is blank for training runs. The step of a checkpoint is shown only if one training
    seed has checkpoints of two steps with the same name, because the step of best.ckpt differs between seeds anyway.
    """
    found = {key: column for key, column in differing(runs).items() if key not in SAME}
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
    found: dict[str, dict[Run, Score]] = {}  # protocol -> run -> score
    for run in values:
        for score in run.scores:
            if score.what in ("samples", "images", "network") and not math.isnan(score.value):
                found.setdefault(score.protocol_key, {})[run] = score
    metrics = [next(iter(by_run.values())).name for by_run in found.values()]
    for metric in dict.fromkeys(metrics):
        if metrics.count(metric) > 1 and not mixed:
            _refuse(metric, [(run, s) for by_run in found.values() for run, s in by_run.items() if s.name == metric])
    columns = []
    for i, (metric, by_run) in enumerate(zip(metrics, found.values(), strict=True), start=1):
        name = metric if metrics.count(metric) == 1 else f"{metric} [{i}]"
        for run, score in by_run.items():
            values[run][name], halves[run, name] = score.value, half_width(score)
        higher = score.higher_is_better
        columns.append(Column(name, None if higher is None else not higher, f"{name}: {protocol_text(score)}"))
        made = (_different((_made(by_run[run]), run) for run in row.runs if run in by_run) for row in rows)
        warnings += [f"{name} of one row was not made in the same way: {each}" for each in made if each]
    warnings += _warnings(len(rows), [(run, score) for by_run in found.values() for run, score in by_run.items()])
    return columns


def _made(score: Score) -> str | None:
    """How the scored images were made; None if it is not known."""
    source = {"guidance": None, "precision": "float32"} | dict(score.source)
    parts = [source.get(part) for part in ("sampler", "guidance", "precision", "weights", "variance")]
    texts = [sampler_text(part) if isinstance(part, Mapping) else str(part) for part in parts if part is not None]
    return ", ".join(texts) if "sampler" in source else None


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
    again = {run.folder: k for run, score in scored if (k := score.source.get("test_evaluation") or 1) > 1}
    found += [f"{run} has test evaluation {k} of its model; only the first is unbiased" for run, k in again.items()]
    if versions := _different((score.code or None, run) for run, score in scored):
        found.append(f"the scores were made by different versions of the code: {versions}")
    return found
