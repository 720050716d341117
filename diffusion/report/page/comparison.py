"""The page data of a sweep or of a comparison of runs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diffusion.report.differences import is_aside
from diffusion.report.formatting import MISSING, number
from diffusion.report.page import pictures
from diffusion.report.page.document import NAME
from diffusion.report.page.run import curves
from diffusion.report.recipes import Comparison
from diffusion.runs.folder import Run

SHOWN = 24  # runs with curves and pictures; the table contains all runs
IMAGES, POINTS = 8, 200


def comparison_page(comparison: Comparison, folder: Path, title: str) -> dict[str, Any]:
    """The page data: recipes with their means, and runs with their numbers, curves and pictures."""
    best = {column.name: comparison.best(column) for column in comparison.columns}
    recipes = []
    for i, (row, name) in enumerate(zip(comparison.rows, comparison.names, strict=True)):
        cells = {}
        for column in comparison.columns:
            if (mean := row.mean(column.name)) is not None:
                first, similar = best[column.name]
                cells[column.name] = {
                    "mean": mean.mean, "half": mean.half, "text": str(mean), "numbers": row.numbers(column.name),
                    "best": i == first, "similar": i in similar,
                }  # fmt: skip
        recipes.append(
            {
                "label": row.label,
                "name": name,
                "settings": [*row.settings.values()],
                "seeds": row.seeds,
                "cells": cells,
            }
        )
    return {
        "kind": "comparison",
        "title": title,
        "settings": list(comparison.rows[0].settings) if comparison.rows else [],
        "varied": [key for key in comparison.rows[0].settings if not is_aside(key)] if comparison.rows else [],
        "numbered": comparison.is_numbered,
        "columns": [{"name": c.name, "lower": c.lower, "words": c.words} for c in comparison.columns],
        "recipes": recipes,
        **runs_of(comparison, folder),
        "warnings": comparison.warnings,
        "left_out": [[shown_path(run.folder, folder), reason] for run, reason in comparison.left_out],
    }


def runs_of(comparison: Comparison, folder: Path) -> dict[str, Any]:
    """All runs with state, differing settings and numbers; `SHOWN` runs also with curves and pictures.

    These are the first complete ones, and then the first others.
    """
    found, shown = [], {*sorted(comparison.runs, key=lambda run: run not in comparison.places)[:SHOWN]}
    for i, run in enumerate(comparison.runs):
        place = comparison.places.get(run)
        values = {} if place is None else comparison.rows[place].values[run]
        found.append(
            {
                "name": shown_path(run.folder, folder),
                "link": link(run.folder, folder),
                "state": run.state,
                "recipe": place,
                "settings": [column[i] for column in comparison.settings.values()],
                "values": values,
                "texts": {name: number(value) for name, value in values.items()},
                "curve": curve(run) if place is not None and run in shown else None,
                "picture": pictures.latest(run, IMAGES) if run in shown else None,
            }
        )
    return {"run_settings": list(comparison.settings), "runs": found, "missing": MISSING, "shown": SHOWN}


def shown_path(path: Path, folder: Path) -> str:
    """The path of a run relative to the comparison's folder, or as given if that is shorter."""
    return min(os.path.relpath(path, folder), str(path), key=len)


def link(path: Path, folder: Path) -> str | None:
    """The URL of a run's page, relative to the comparison's; None if there is no page."""
    return quote(os.path.relpath(path / NAME, folder)) if (path / NAME).is_file() else None


def curve(run: Run) -> dict[str, Sequence[float]] | None:
    """The validation error by step; None if none was logged."""
    series = run.metrics.get("val/mse")
    found: dict[str, Sequence[float]] | None = curves({"val/mse": series}, POINTS)["val/mse"] if series else None
    return found
