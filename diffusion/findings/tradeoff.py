"""The settings of a study with their scores, and which of them are best for their cost."""

import json
import math
from collections.abc import Sequence
from typing import Any

from diffusion.metric.record import Score
from diffusion.runs.folder import Run

Row = dict[str, Any]  # of the table: column -> text, number or Score


def rows_of(run: Run) -> list[Row]:
    """The settings of the latest study in a folder, then its baselines, which have no `nfe`.

    It is that of the model, n and the reference of the last score. `line` is the sampler and the interval of its
    guidance: `ddim in (0.2, 1.6]`.
    """

    def common(score: Score) -> Any:
        return score.n, score.reference, score.source.get("network_hash")

    last, rows = [score for score in run.scores if "nfe" in score.source][-1], dict[str, Row]()
    for score in run.scores:
        source, guidance = score.source, score.source.get("guidance") or {}
        if "nfe" not in source:
            rows.setdefault(score.what, {"sampler": score.what})[score.metric] = score
        elif common(score) == common(last):
            name, low, high = source["words"], guidance.get("low"), guidance.get("high")
            inside = "" if low is high is None else f" in ({low or 0:g}, {math.inf if high is None else high:g}]"
            about = {"scale": 1, **guidance, **source, "steps": source["sampler"].get("steps")}
            made = json.dumps([source["sampler"], guidance], sort_keys=True, default=str)
            rows.setdefault(made, {**about, "sampler": name, "line": name + inside})[score.metric] = score.paired
    return sorted(rows.values(), key=lambda row: "nfe" not in row)


def metrics_of(rows: list[Row]) -> dict[str, Score]:
    """The metrics, each with one of its scores of samples."""
    return {key: value for row in rows if "nfe" in row for key, value in row.items() if isinstance(value, Score)}


def over(rows: list[Row]) -> str:
    """What the scores are shown over: the scale of the guidance if it differs, or else the evaluations."""
    return "scale" if len({row["scale"] for row in rows if "nfe" in row}) > 1 else "nfe"


def is_best(score: Score, nfe: int, rows: Sequence[Row]) -> bool:
    """Whether no setting with `nfe` evaluations is better, none with fewer is as good, and some setting is worse."""
    sign = {True: -1, False: 1, None: 0}[score.higher_is_better]
    badness = [(sign * row[score.metric].value, row["nfe"]) for row in rows if "nfe" in row and score.metric in row]
    own = sign * score.value, nfe
    return own[0] < max(badness)[0] and own <= min(each for each in badness if each[1] <= nfe)
