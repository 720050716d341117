"""The table of a sweep: a row per job, with only the settings in which the jobs differ, and what came out."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from diffusion.console import console as standard
from diffusion.console import count, duration
from diffusion.errors import UserError, first_line
from diffusion.files import replace
from diffusion.report.differences import MISSING, differing, labels
from diffusion.report.formatting import comparable, csv_of, number, number_protocols, protocol_line, table
from diffusion.runs.folder import Run, is_run
from diffusion.runs.metrics import validated

RESULTS = ("val/mse", "fit/mse")


def jobs_of(folder: Path) -> list[Run]:
    """The runs in `folder`'s sub-folders, by number where the names hold one (2 before 10). [] where there are none."""
    if not folder.is_dir():
        return []
    inside = [path for path in folder.iterdir() if path.is_dir() and is_run(path)]
    order = [(tuple(int(digits) for digits in re.findall(r"\d+", path.name)), path.name, path) for path in inside]
    return [Run(path) for _, _, path in sorted(order)]


def sweep_table(folder: str | Path, console: Console | None = standard) -> list[Path]:
    """Write table.md and table.csv of the sweep in `folder`, print the table on `console`; returns the two paths.

    A row per job in order of its number: state, the settings in which the jobs differ, the last validation and fit
    MSE, the last score of samples for each metric, seconds. Scores of different protocols can't be
    compared and stand in different columns. Raises UserError where `folder` holds no job.
    """
    folder = Path(folder)
    jobs = jobs_of(folder)
    if not jobs:
        raise UserError(f"{folder}: no run in its sub-folders; expected the folder of a sweep, with jobs 0, 1, …")
    settings = {key: column for key, column in differing(jobs).items() if key != "name"}  # of a folder, no setting
    last = [{comparable(r): r for r in job.scores if r.get("what") == "samples"} for job in jobs]
    protocols = number_protocols(record for records in last for record in records.values())
    words = {key: next(records[key] for records in last if key in records) for key in protocols}
    metrics = [str(record.get("metric")) for record in words.values()]
    scores = {
        key: metric if metrics.count(metric) == 1 else f"{metric} [{protocols[key]}]"
        for key, metric in zip(words, metrics, strict=True)
    }
    head = ["job", "state", *settings, *RESULTS, *scores.values(), "seconds"]
    exact, shown = [], []
    for i, job in enumerate(jobs):
        state = str(job.info.get("state", "not started"))
        start = [job.folder.name, state, *(column[i] for column in settings.values())]
        errors = [job.metrics[name].value[-1] if name in job.metrics else None for name in RESULTS]
        records = [last[i].get(key) for key in scores]
        seconds = job.info.get("seconds")
        exact.append([*start, *errors, *(r["value"] if r else None for r in records), seconds])
        shown.append(
            [
                *start,
                *(MISSING if error is None else f"{error:.5g}" for error in errors),
                *map(number, records),
                MISSING if seconds is None else f"{seconds:.0f}",
            ]
        )
    numeric = range(2 + len(settings), len(head))
    replace(folder / "table.csv", csv_of([head, *exact]))
    parts = [f"# Sweep {folder.resolve().name}", table(head, shown, right=numeric), _notes(jobs, words, scores)]
    replace(folder / "table.md", "\n\n".join(parts) + "\n")
    if console:
        console.print(f"\n{count(len(jobs), 'job')} in {folder}", markup=False)
        done = ["" if row[1] == "complete" else f" ({row[1]})" for row in shown]
        brief = [label + state for label, state in zip(labels(settings, len(jobs)), done, strict=True)]
        lines = [[text, row[0], *row[numeric.start :]] for text, row in zip(brief, shown, strict=True)]
        styles = [{"complete": None, "failed": "red"}.get(row[1], "yellow") for row in shown]
        for part in in_parts(["settings", "job", *head[numeric.start :]], lines, console.width, styles):
            console.print(part)
    return [folder / "table.md", folder / "table.csv"]


def in_parts(
    head: list[str], rows: list[list[str]], width: int, styles: Sequence[str | None] | None = None
) -> list[Table]:
    """The table for a console of `width`, in parts where it is wider; each begins with the first two columns.

    The first is text, wrapped where it is longer than a third of the width; the others are aligned to the right.
    """
    widths = [3 + max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    first = min(widths[0], max(24, width // 3))
    parts: list[list[int]] = [[]]
    for i in range(2, len(head)):
        if parts[-1] and first + sum(widths[j] for j in [1, *parts[-1], i]) + 2 > width:
            parts.append([])
        parts[-1].append(i)
    tables = []
    for part in parts:
        printed = Table(box=box.SIMPLE_HEAD)
        printed.add_column(head[0], max_width=first - 3, overflow="fold")
        for i in [1, *part]:
            printed.add_column(head[i], justify="right", no_wrap=True)
        for k, line in enumerate(rows):
            printed.add_row(line[0], *(line[i] for i in [1, *part]), style=styles[k] if styles else None)
        tables.append(printed)
    return tables


def _notes(jobs: list[Run], words: Mapping[str, Any], scores: Mapping[str, str]) -> str:
    """What the columns mean, the sum of time, the protocols of the scores, why jobs failed."""
    total = duration(sum(job.info.get("seconds") or 0 for job in jobs))
    legend = (
        "Only settings that differ between the jobs are shown. MSE: the last one, on validation images (val) and on as "
        f"many training images (fit), of the {validated(job.metrics for job in jobs)}. {total} in all."
    )
    lines = [f"- {name}: {protocol_line(words[key])}." for key, name in scores.items()]
    lines += [f"- job {job.folder.name} failed: {job.info['reason']}" for job in jobs if job.info.get("reason")]
    return "\n\n".join([legend, "\n".join(lines)] if lines else [legend])


class SweepTable(Callback):
    """Hydra callback: the table of a multirun, in its folder, kept up to date job by job and shown at the end.

    By the job, because Hydra's own sweeper ends a multirun in which a job failed without calling `on_multirun_end`.
    """

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the table so far; a job that failed is named at once, with the reason."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        table, _ = sweep_table(config.hydra.sweep.dir, console=None)
        compare_jobs(Path(config.hydra.sweep.dir), console=None)
        if job_return.status == JobStatus.FAILED:
            reason = first_line(job_return._return_value)  # the property of that name would raise it here
            standard.print(f"job {config.hydra.job.num} failed: {reason}; the jobs so far: {table}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the table and say where it lies."""
        for path in [*sweep_table(config.hydra.sweep.dir), *compare_jobs(Path(config.hydra.sweep.dir))]:
            standard.print(str(path))


def compare_jobs(folder: Path, console: Console | None = standard) -> list[Path]:
    """The jobs of a sweep as recipes with intervals over seeds (see `report.recipes`); [] while none is complete."""
    from diffusion.report.compare import compare
    from diffusion.report.comparison import write

    comparison = compare(jobs_of(folder), mixed=True)
    return write(comparison, folder, f"Sweep {folder.resolve().name} by recipe", console) if comparison.rows else []
