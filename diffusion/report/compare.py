"""Runs compared: a row per recipe, a column per quantity and protocol; unequal protocols are refused.

Two runs that differ in nothing but their seed are one row, and of several runs of one seed the newest counts, once.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion.errors import UserError
from diffusion.metric.record import Score
from diffusion.report.differences import MISSING, differing, labels
from diffusion.report.formatting import protocol_text, sampler_text
from diffusion.report.recipes import Column, Comparison, Row
from diffusion.runs.folder import Run, is_run, jobs_of
from diffusion.runs.metrics import validated_weights

ERRORS = ("val/mse", "fit/mse", "gap/mse")
MEASURED = ("data", "schedule", "validation")  # what two denoising errors must share to be ranked
UNMEASURED = ("data.batch_size", "data.flip")  # parts of these that do not matter
IDLE = ("seed", "name", "logger", "samples", "score", "again")  # settings that change no number except by its protocol


def gather(folders: Iterable[Path]) -> list[Run]:
    """The runs that `folders` are, or hold as sweeps, each once, in order."""
    runs: dict[Path, Run] = {}
    for folder in folders:
        found = [Run(folder)] if is_run(folder) else jobs_of(folder)
        if not found:
            raise UserError(
                f"{folder}: neither a run nor a sweep of runs; name folders that python -m diffusion.train wrote"
            )
        runs |= {run.folder.resolve(): run for run in found}
    return list(runs.values())


def compare(runs: Sequence[Run], mixed: bool = False) -> Comparison:
    """The comparison of `runs`.

    Raises UserError where scores of one metric were made under different protocols, naming what differs; with `mixed`
    they stand in columns of their own, ranked within each.
    """
    reasons = [unusable(run) for run in runs]
    used = [run for run, reason in zip(runs, reasons, strict=True) if reason is None]
    left_out = [(run, reason) for run, reason in zip(runs, reasons, strict=True) if reason is not None]
    settings = _distinguishing(used)
    grouped: dict[tuple[str, ...], Row] = {}
    for i, (run, label) in enumerate(zip(used, labels(settings, len(used)), strict=True)):
        values = {key: column[i] for key, column in settings.items()}
        grouped.setdefault(tuple(values.values()), Row(values, label)).runs.append(run)
    rows = list(grouped.values())
    for row in rows:
        row.runs, spare = _replicates(row.runs)
        left_out += spare
    warnings: list[str] = []
    columns = _errors(rows, settings) + _scores(rows, mixed, warnings)
    columns.append(Column("seconds", None, "seconds: duration of a run, training to report"))
    for row in rows:
        row.values["seconds"] = {r: float(r.info["seconds"]) for r in row.runs if r.info.get("seconds") is not None}
    return Comparison(rows, [c for c in columns if any(r.values.get(c.name) for r in rows)], left_out, warnings)


def unusable(run: Run) -> str | None:
    """Why a run's numbers are not those of a finished run, or None."""
    state = str(run.info.get("state", "complete" if run.scores else "not started"))
    if state == "complete":
        return None
    return f"{state}: {run.info['reason']}" if run.info.get("reason") else state


def _distinguishing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that make rows of runs: those that differ, without seeds and what changes no number.

    `ckpt` is what was evaluated, and means nothing for a run that was trained. Its step is shown where two files of one
    name belong to one run: best.ckpt is of another step for each seed.
    """
    found = {key: column for key, column in differing(runs).items() if key.split(".")[0] not in IDLE}
    if "ckpt" in found:
        column = [MISSING if "trainer" in run.config else name for run, name in zip(runs, found["ckpt"], strict=True)]
        found = {key: value for key, value in (found | {"ckpt": column}).items() if len(set(value)) > 1}
    steps = found.pop("step", None)
    if steps:
        draws = list(zip(*found.values(), [str(run.seeds) for run in runs], strict=True))
        if len(set(zip(draws, steps, strict=True))) > len(set(draws)):
            found["step"] = steps
    return found


def _replicates(runs: Sequence[Run]) -> tuple[list[Run], list[tuple[Run, str]]]:
    """Of the runs of one recipe the newest of each seed, and the others with the reason: one draw is counted once."""
    newest: dict[Any, Run] = {}
    for run in runs:
        key = run.seeds or run.folder
        newest[key] = max(run, newest.get(key, run), key=lambda run: str(run.info.get("finished", "")))
    kept = {run.folder for run in newest.values()}
    spare = [(run, newest[run.seeds]) for run in runs if run.folder not in kept]
    return list(newest.values()), [(run, f"same recipe and seed as {used.folder}") for run, used in spare]


def _errors(rows: Sequence[Row], settings: Mapping[str, Sequence[str]]) -> list[Column]:
    """Fill in the last denoising errors. They are ranked only between equal data, schedules and grids."""
    differing_parts = [key for key in settings if any(key == p or key.startswith(f"{p}.") for p in MEASURED)]
    differing_parts = [key for key in differing_parts if key not in UNMEASURED]
    for row in rows:
        for name in ERRORS:
            row.values[name] = {run: float(run.metrics[name].value[-1]) for run in row.runs if name in run.metrics}
    why = (
        f"; not ranked, because {', '.join(differing_parts)} differ{'s' * (len(differing_parts) == 1)}: another error "
        "is measured"
        if differing_parts
        else ""
    )
    weights = validated_weights(run.metrics for row in rows for run in row.runs)
    words = {
        "val/mse": f"val/mse: denoising MSE on validation images, {weights}, at the end{why}",
        "fit/mse": "fit/mse: the same on as many training images; not ranked, since it falls with over-fitting too",
        "gap/mse": "gap/mse: val/mse − fit/mse, which grows with over-fitting",
    }
    return [Column(name, True if name == "val/mse" and not differing_parts else None, words[name]) for name in ERRORS]


def _scores(rows: Sequence[Row], mixed: bool, warnings: list[str]) -> list[Column]:
    """Fill in the last scores of samples, a column for each metric and protocol."""
    measured = [(row, run, _measured(run)) for row in rows for run in row.runs]
    makers = _differing_makers([(run, scores) for _, run, scores in measured], mixed)

    def key_of(score: Score) -> str:
        parts = {p: v for p, v in maker(score).items() if p in makers.get(score.protocol_key, ())}
        return json.dumps([score.protocol_key, parts], sort_keys=True)

    last = [(row, run, {key_of(score): score for score in scores}) for row, run, scores in measured]
    examples = {key: score for _, _, scores in reversed(last) for key, score in scores.items()}
    keys = list(dict.fromkeys(key for _, _, scores in last for key in scores))
    metrics = [examples[key].metric for key in keys]
    for metric in dict.fromkeys(metrics):
        if metrics.count(metric) > 1 and not mixed:
            _refuse(metric, [(run, s) for _, run, scores in last for s in scores.values() if s.metric == metric])
    columns = []
    for i, (key, metric) in enumerate(zip(keys, metrics, strict=True), start=1):
        name, score = metric if metrics.count(metric) == 1 else f"{metric} [{i}]", examples[key]
        for row in rows:
            row.values[name] = {run: scores[key].value for owner, run, scores in last if owner is row and key in scores}
        higher = score.higher_is_better
        by = "".join(f"; {part} {maker(score)[part]}" for part in makers.get(score.protocol_key, ()))
        columns.append(Column(name, None if higher is None else not higher, f"{name}: {protocol_text(score)}{by}"))
    warnings += _warnings(rows, last)
    return columns


def _warnings(rows: Sequence[Row], last: Sequence[tuple[Row, Run, Mapping[str, Score]]]) -> list[str]:
    """What has to be said about the scores: choosing by test, repeated tests, several versions of the code."""
    found = []
    scores = [(run, score) for _, run, by_key in last for score in by_key.values()]
    tests = {score.metric for _, score in scores if score.reference is not None and score.reference.split == "test"}
    if tests and len(rows) > 1:
        found.append(
            f"{', '.join(sorted(tests))}: choosing among {len(rows)} recipes by their test scores makes the winner's "
            "score too good; choose by the validation split, and score only the chosen one on test"
        )
    numbers: dict[Run, int] = {}
    for run, score in scores:
        numbers[run] = max(numbers.get(run, 1), score.source.get("test_evaluation") or 1)
    if again := [f"{run.folder} (test evaluation {number})" for run, number in numbers.items() if number > 1]:
        found.append(
            f"{', '.join(again)}: its test split had been evaluated before; of several only the first is honest"
        )
    versions: dict[str, Run] = {}
    for run, score in scores:
        if score.code:
            versions.setdefault(score.code, run)
    if len(versions) > 1:
        listed = " and ".join(f"{code} in {run.folder}" for code, run in versions.items())
        found.append(f"the scores were made by different versions of the code: {listed}")
    return found


def maker(score: Score) -> dict[str, str]:
    """Who made what was scored: the sampler, weights, checkpoint and seed, or the folder; in words."""
    parts = {key: score.source.get(key) for key in ("sampler", "weights", "seed", "folder")}
    parts["checkpoint"] = (score.source.get("checkpoint") or {}).get("path")
    return {
        key: sampler_text(part) if isinstance(part, Mapping) else str(part)
        for key, part in parts.items()
        if part is not None
    }


def _measured(run: Run) -> list[Score]:
    """The scores of what the run made, in order."""
    return [s for s in run.scores if s.what in ("samples", "images", "network") and not math.isnan(s.value)]


def _differing_makers(scored: Sequence[tuple[Run, Sequence[Score]]], mixed: bool) -> dict[str, list[str]]:
    """Protocol -> the parts of `maker` in which scores of one folder differ; {} where each folder has one maker.

    Scores of one run at several steps have one maker, and the last is meant. Of several makers it is not known which is
    meant: UserError, unless `mixed`.
    """
    found: dict[str, list[str]] = {}
    for run, scores in scored:
        for protocol in dict.fromkeys(score.protocol_key for score in scores):
            same = [score for score in scores if score.protocol_key == protocol]
            values: dict[str, dict[str, None]] = {}
            for part, value in (pair for score in same for pair in maker(score).items()):
                values.setdefault(part, {})[value] = None
            several = {part: list(names) for part, names in values.items() if len(names) > 1}
            if several and not mixed:
                listed = "; ".join(f"{part} is {' and '.join(names)}" for part, names in several.items())
                raise UserError(
                    f"{run.folder}: {same[0].metric} was measured several times there, and {listed}: add --mixed for "
                    "separate columns, or score into a folder each (a study is reported in its own study.md)"
                )
            found.setdefault(protocol, []).extend(part for part in several if part not in found[protocol])
    return found


def _refuse(metric: str, scored: Sequence[tuple[Run, Score]]) -> None:
    """Name what differs between the protocols of one metric, with a run for each value."""
    differences = []
    protocols = [(run, score.protocol) for run, score in scored]
    for key in dict.fromkeys(key for _, protocol in protocols for key in protocol):
        values = {str(protocol.get(key)): run for run, protocol in protocols}
        if len(values) > 1:
            places = " and ".join(f"{value} in {run.folder}" for value, run in values.items())
            differences.append(f"{key} is {places}")
    raise UserError(
        f"{metric} was measured under different protocols and can't be ranked: {'; '.join(differences)}; score them "
        "alike with python -m diffusion.evaluate, or add --mixed for separate columns"
    )
