"""Runs against runs: a row per recipe, a column per quantity and protocol; unequal protocols are refused.

Two runs that differ in nothing but their seed are one row, and of several runs of one seed the newest counts, once.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion.errors import UserError
from diffusion.report.differences import MISSING, differing, labels
from diffusion.report.formatting import Record, comparable, higher_is_better, protocol_line, protocol_of, sampler_name
from diffusion.report.recipes import Column, Comparison, Row
from diffusion.runs.folder import Run, is_run
from diffusion.runs.metrics import validated

ERRORS = ("val/mse", "fit/mse", "gap/mse")
MEASURED = ("data", "schedule", "validation")  # what two denoising errors must share to be ranked
IDLE = ("seed", "name", "logger", "samples", "score", "again")  # settings that change no number but by its protocol


def gather(folders: Iterable[Path]) -> list[Run]:
    """The runs that `folders` are, or hold as sweeps, each once, in order."""
    from diffusion.report.sweep import jobs_of

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
    told = _told(used)
    grouped: dict[tuple[str, ...], Row] = {}
    for i, (run, label) in enumerate(zip(used, labels(told, len(used)), strict=True)):
        own = {key: column[i] for key, column in told.items()}
        grouped.setdefault(tuple(own.values()), Row(own, label)).runs.append(run)
    rows = list(grouped.values())
    for row in rows:
        row.runs, spare = _replicates(row.runs)
        left_out += spare
    warnings: list[str] = []
    columns = _errors(rows, told)
    columns += _scores(rows, mixed, warnings)
    columns.append(Column("seconds", None, "seconds: duration of a run, training to report"))
    for row in rows:
        row.values["seconds"] = [float(run.info["seconds"]) for run in row.runs if run.info.get("seconds") is not None]
    return Comparison(rows, [c for c in columns if any(r.values.get(c.name) for r in rows)], left_out, warnings)


def _told(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that make rows of runs: those that differ, but for seeds and what changes no number.

    `ckpt` is what was evaluated, and nothing to a run that was trained. Its step is told where two of one name are of
    one run: best.ckpt is of another step for each seed.
    """
    told = {key: column for key, column in differing(runs).items() if key.split(".")[0] not in IDLE}
    if "ckpt" in told:
        column = [MISSING if "trainer" in run.config else name for run, name in zip(runs, told["ckpt"], strict=True)]
        told = {key: value for key, value in (told | {"ckpt": column}).items() if len(set(value)) > 1}
    steps = told.pop("step", None)
    if steps:
        draws = list(zip(*told.values(), [str(run.seeds) for run in runs], strict=True))
        if len(set(zip(draws, steps, strict=True))) > len(set(draws)):
            told["step"] = steps
    return told


def unusable(run: Run) -> str | None:
    """Why a run's numbers are not those of a finished run, or None."""
    state = str(run.info.get("state", "complete" if run.scores else "not started"))
    if state == "complete":
        return None
    return f"{state}: {run.info['reason']}" if run.info.get("reason") else state


def _replicates(runs: Sequence[Run]) -> tuple[list[Run], list[tuple[Run, str]]]:
    """Of the runs of one recipe the newest of each seed, and the others with the reason: one draw is counted once."""
    newest: dict[Any, Run] = {}
    for run in runs:
        key = run.seeds or run.folder
        newest[key] = max(run, newest.get(key, run), key=lambda run: str(run.info.get("finished", "")))
    kept = {run.folder for run in newest.values()}
    spare = [(run, newest[run.seeds]) for run in runs if run.folder not in kept]
    return list(newest.values()), [(run, f"same recipe and seed as {used.folder}") for run, used in spare]


def _errors(rows: Sequence[Row], told: Mapping[str, Sequence[str]]) -> list[Column]:
    """Fill in the last denoising errors. They are ranked only between equal data, schedules and grids."""
    apart = [key for key in told if any(key == part or key.startswith(f"{part}.") for part in MEASURED)]
    apart = [key for key in apart if key not in ("data.batch_size", "data.flip")]
    for row in rows:
        for name in ERRORS:
            row.values[name] = [float(run.metrics[name].value[-1]) for run in row.runs if name in run.metrics]
    why = (
        f"; not ranked, because {', '.join(apart)} differ{'s' * (len(apart) == 1)}: another error is measured"
        if apart
        else ""
    )
    weights = validated(run.metrics for row in rows for run in row.runs)
    words = {
        "val/mse": f"val/mse: denoising MSE on validation images, {weights}, at the end{why}",
        "fit/mse": "fit/mse: the same on as many training images; not ranked, since it falls with over-fitting too",
        "gap/mse": "gap/mse: val/mse − fit/mse, which grows with over-fitting",
    }
    return [Column(name, True if name == "val/mse" and not apart else None, words[name]) for name in ERRORS]


def _scores(rows: Sequence[Row], mixed: bool, warnings: list[str]) -> list[Column]:
    """Fill in the last scores of samples, a column for each metric and protocol."""
    measured = [(row, run, _measured(run)) for row in rows for run in row.runs]
    apart = _makers_apart([(run, records) for _, run, records in measured], mixed)

    def key_of(record: Record) -> str:
        protocol = comparable(record)
        own = {part: value for part, value in maker(record).items() if part in apart.get(protocol, ())}
        return json.dumps([protocol, own], sort_keys=True)

    last = [(row, run, {key_of(record): record for record in records}) for row, run, records in measured]
    words = {key: record for _, _, records in reversed(last) for key, record in records.items()}
    keys = list(dict.fromkeys(key for _, _, records in last for key in records))
    metrics = [str(words[key].get("metric")) for key in keys]
    for metric in dict.fromkeys(metrics):
        if metrics.count(metric) > 1 and not mixed:
            _refuse(metric, [(run, r) for _, run, records in last for r in records.values() if r["metric"] == metric])
    columns = []
    for i, (key, metric) in enumerate(zip(keys, metrics, strict=True), start=1):
        name, record = metric if metrics.count(metric) == 1 else f"{metric} [{i}]", words[key]
        for row in rows:
            row.values[name] = [float(rs[key]["value"]) for owner, _, rs in last if owner is row and key in rs]
        higher = higher_is_better(record)
        own = "".join(f"; {part} {maker(record)[part]}" for part in apart.get(comparable(record), ()))
        columns.append(Column(name, None if higher is None else not higher, f"{name}: {protocol_line(record)}{own}"))
    tests = {record["metric"] for record in words.values() if (record.get("reference") or {}).get("split") == "test"}
    if tests and len(rows) > 1:
        warnings.append(
            f"{', '.join(sorted(tests))}: choosing among {len(rows)} recipes by their test scores makes the winner's "
            "score too good; choose by the validation split, and score only the chosen one on test"
        )
    looks = {run: max(r.get("look") or 1 for r in records.values()) for _, run, records in last if records}
    if again := [f"{run.folder} (look {look})" for run, look in looks.items() if look > 1]:
        warnings.append(
            f"{', '.join(again)}: its test split had been scored before; of several only the first is honest"
        )
    said = [(str(r["code"]), run) for _, run, records in last for r in records.values() if r.get("code")]
    if len(dict(said)) > 1:
        first = dict(reversed(said))
        told = " and ".join(f"{code} in {first[code].folder}" for code in dict(said))
        warnings.append(f"the scores were made by different versions of the code: {told}")
    return columns


def maker(record: Record) -> dict[str, str]:
    """Who made what was scored: the sampler, weights and checkpoint, the seed, else the folder; in words."""
    parts = {key: record.get(key) for key in ("sampler", "weights", "seed", "folder")}
    parts |= {"checkpoint": (record.get("checkpoint") or {}).get("path")}
    named = {key: sampler_name(part) if isinstance(part, Mapping) else str(part) for key, part in parts.items()}
    return {key: named[key] for key, part in parts.items() if part is not None}


def _measured(run: Run) -> list[Record]:
    """The scores of what the run made, in order."""
    of = ("samples", "images", "network")
    return [record for record in run.scores if record.get("what") in of and record.get("value") is not None]


def _makers_apart(scored: Sequence[tuple[Run, Sequence[Record]]], mixed: bool) -> dict[str, list[str]]:
    """Protocol -> the parts of `maker` in which scores of one folder differ; {} where each folder has one maker.

    Scores of one run at several steps have one maker, and the last is meant. Of several makers it is not known which
    is meant: UserError, unless `mixed`.
    """
    apart: dict[str, list[str]] = {}
    for run, records in scored:
        for protocol in dict.fromkeys(map(comparable, records)):
            same = [record for record in records if comparable(record) == protocol]
            values: dict[str, dict[str, None]] = {}
            for part, value in (pair for record in same for pair in maker(record).items()):
                values.setdefault(part, {})[value] = None
            several = {part: list(found) for part, found in values.items() if len(found) > 1}
            if several and not mixed:
                told = "; ".join(f"{part} is {' and '.join(found)}" for part, found in several.items())
                raise UserError(
                    f"{run.folder}: {same[0]['metric']} was measured several times there, and {told}: add --mixed for "
                    "columns apart, or score into a folder each (a study is told by its own study.md)"
                )
            apart.setdefault(protocol, []).extend(part for part in several if part not in apart[protocol])
    return apart


def _refuse(metric: str, scored: Sequence[tuple[Run, Record]]) -> None:
    """Name what differs between the protocols of one metric, with a run for each value."""
    apart = []
    told = [(run, protocol_of(record)) for run, record in scored]
    for key in dict.fromkeys(key for _, protocol in told for key in protocol):
        values = {str(protocol.get(key)): run for run, protocol in told}
        if len(values) > 1:
            apart.append(f"{key} is " + " and ".join(f"{value} in {run.folder}" for value, run in values.items()))
    raise UserError(
        f"{metric} was measured under different protocols and can't be ranked: {'; '.join(apart)}; score them alike "
        "with python -m diffusion.evaluate, or add --mixed for columns apart"
    )
