"""The committed results: docs/results/STUDY with record.json and, for each sweep, a table, its figure and samples.

The training figures that the study requests are in the same folder.

The README.md in this folder is written by hand, except for its tables, which `commit` updates between two comments:

    <!-- table: SWEEP -->
    <!-- end -->

`<!-- ranks: SWEEP -->` marks the table that compares rankings, if the study requests one.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from diffusion.config.composition import composed, flat, plain
from diffusion.errors import UserError
from diffusion.files import PACKAGE, replace
from diffusion.report import style
from diffusion.report.comparison import figure, in_lines, recipes_table
from diffusion.report.formatting import NULL, describe
from diffusion.report.images import opened, tiles
from diffusion.reproduce.ranks import ranks_table
from diffusion.reproduce.running import Outcome
from diffusion.reproduce.studies import jobs, read
from diffusion.reproduce.table import Table

RECORD = "record.json"
PAGE = "README.md"
OFF = (NULL, describe(False))
SHOWN = 6  # samples per recipe
WIDTH = 16  # characters per line below a picture


def committed_dir() -> Path:
    """The folder of committed results: inside the package if installed from a wheel, in docs/ for a checkout."""
    installed = PACKAGE / "committed"
    return installed if installed.is_dir() else PACKAGE.parent / "docs/results"


def record_of(name: str) -> dict[str, Any] | None:
    """The record.json of a study, or None if no result is committed."""
    file = committed_dir() / name / RECORD
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


def tables_of(name: str) -> dict[str, Table]:
    """The committed table of each sweep of a study; {} if no result is committed."""
    record = record_of(name) or {"sweeps": {}}
    return {
        sweep: Table.read((committed_dir() / name / f"{sweep}.csv").read_text("utf-8"), node["columns"])
        for sweep, node in record["sweeps"].items()
    }


def commit(name: str, outcome: Outcome, folder: Path) -> list[Path]:
    """Write the result of a study into `folder` and return the files.

    If a sweep has only one recipe, its samples are the grid of the recipe's first run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, tables = [], outcome.tables
    for sweep, table in tables.items():
        comparison = table.comparison(read(name).columns)
        replace(folder / f"{sweep}.csv", table.text())
        written += [folder / f"{sweep}.csv", style.save(figure(comparison), folder / f"{sweep}.png")]
        files, drawn = [run / "samples/all.png" for run in outcome.examples[sweep]], folder / f"{sweep}-samples.png"
        if len(files) == 1 and (grid := files[0].with_name("final.png")).is_file():
            written.append(Path(shutil.copyfile(grid, drawn)))
        elif all(file.is_file() for file in files):
            written.append(style.save(samples(comparison.names, files), drawn))
        if read(name).sweeps[sweep].command == "train":
            written += keep_figures(read(name).figures, sweep, outcome.examples[sweep], folder)
    sweeps = {
        sweep: {"columns": table.protocols(), "settings": settings_of(name, sweep)} for sweep, table in tables.items()
    }
    record = {"date": f"{date.today()}", "code": outcome.code, "seconds": round(outcome.seconds), "sweeps": sweeps}
    replace(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    page = folder / PAGE
    before = page.read_text("utf-8") if page.is_file() else f"# {read(name).question}\n"
    replace(page, with_tables(name, before, tables))
    return [*written, folder / RECORD, page]


def keep_figures(names: Sequence[str], sweep: str, runs: Sequence[Path], folder: Path) -> list[Path]:
    """Copy these figures of each run to `folder` (SWEEP-NAME-1.png for the first run) and return the files."""
    written = []
    for name in names:
        for i, run in enumerate(runs, start=1):
            file = run / f"figures/{name}.png"
            if not file.is_file():
                there = ", ".join(sorted(other.stem for other in file.parent.glob("*.png"))) or "none"
                raise UserError(f"figures: {name}: {run} has no such figure; it has: {there}")
            written.append(Path(shutil.copyfile(file, folder / f"{sweep}-{name}-{i}.png")))
    return written


@style.styled
def samples(labels: Sequence[str], files: Sequence[Path]) -> Figure:
    """A column of samples per recipe; samples in a row started from the same noise. `files` are sample grids."""
    texts = [[line for part in label.split(", ") for line in in_lines(part, WIDTH).split("\n")] for label in labels]
    lines = max(map(len, texts))
    columns = ["\n".join([*text, *[""] * (lines - len(text))]) for text in texts]
    pictures = [tiles(opened(file))[:SHOWN] for file in files]
    return style.picture_rows([*zip(*pictures, strict=True)], columns, "\n" * (lines - 1))


def with_tables(name: str, text: str, tables: Mapping[str, Table]) -> str:
    """The page of a study with its tables updated; a table without a marked place is appended."""
    study = read(name)
    for sweep, table in tables.items():
        comparison = table.comparison(study.columns)
        text = _with(text, f"table: {sweep}", recipes_table(comparison))
        if study.ranks:
            text = _with(text, f"ranks: {sweep}", ranks_table(table, study.ranks))
    return text


def _with(text: str, name: str, shown: str) -> str:
    """`text` with `shown` between the comments of this name, appended if they do not exist."""
    block = f"<!-- {name} -->\n{shown}\n<!-- end -->"
    place = re.search(rf"<!-- {name} -->\n.*?<!-- end -->", text, re.DOTALL)
    return text[: place.start()] + block + text[place.end() :] if place else f"{text}\n{block}\n"


def settings_of(name: str, sweep: str) -> dict[str, dict[str, str]]:
    """The settings of a sweep's jobs as composed today, keyed by the overrides of each job without the seed.

    The first job has all settings; every other job has only those that differ from the first.
    """
    found: dict[str, dict[str, str]] = {}
    first: dict[str, str] = {}
    asked = read(name).sweeps[sweep]
    given = ["name=RUN", "ckpt=RUN"] if asked.command == "evaluate" else ["name=RUN"]
    for case in asked.cases:
        for job in jobs([*asked.common, *case]):
            words = " ".join(word for word in job if not word.startswith("seed="))
            if words not in found:
                node = plain(composed(asked.command, [*given, *job]))
                settings = {key: describe(value) for key, value in flat(node).items()}
                first = first or settings
                found[words] = {key: now for key, then, now in changes(first, settings)} if found else settings
    return found


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(key, before, after) of each setting that differs. A missing setting is equivalent to null and to false."""
    keys = dict.fromkeys([*before, *after])
    pairs = [(key, before.get(key, NULL), after.get(key, NULL)) for key in keys]
    shared = before.keys() & after.keys()
    return [(key, then, now) for key, then, now in pairs if then != now and (key in shared or {then, now} - {*OFF})]


def changed_settings(name: str) -> list[str]:
    """A line per setting that differs between today's configuration of a study and that of its committed result."""
    lines = []
    for sweep, node in (record_of(name) or {"sweeps": {}})["sweeps"].items():
        if sweep not in read(name).sweeps:
            lines.append(f"{sweep}: the study no longer has this sweep")
            continue
        before, today = node["settings"], settings_of(name, sweep)
        if [*before] != [*today]:
            lines.append(f"{sweep}: its runs are {'; '.join(today)}; committed: {'; '.join(before)}")
            continue
        for job in before:
            lines += [
                f"{sweep}: {key} is {now}; committed: {then}" for key, then, now in changes(before[job], today[job])
            ]
    return lines
