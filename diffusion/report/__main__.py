"""`python -m diffusion.report FOLDER …`: draw a run's figures and write its README, or compare the runs of a sweep.

torch and matplotlib are imported only if there is something to draw.
"""

import sys
from functools import partial
from pathlib import Path

from diffusion.errors import Arguments, UserError, exit_status
from diffusion.runs.importing import importing

ABOUT = """\
Draw the figures of a run and write its README.md and report.html, from the files that the run wrote; or compare the
runs of a sweep. report.html is a page for the browser; it needs no other file and no network.

  a run's folder     figures/*.png (beta, signal, samples, mse, bins, gap), README.md, report.html
  a sweep's folder   compare.md, compare.csv, runs.csv, compare.png, report.html; the comparison is printed too
  a folder of runs   report.html, a list of the runs with links to their pages

Nothing is trained or sampled, and no checkpoint is read. It can be rerun at any time, even during the run.
"""


def main(arguments: list[str] | None = None) -> int:
    """Report on each folder. Returns the exit status: 0, or 2 with one line on stderr per folder without a report."""
    parser = Arguments("report", ABOUT)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run's or a sweep's folder")
    parser.add_config_dir()
    chosen = parser.parse_args(arguments)
    tasks = [partial(report, folder, chosen.config_dir) for folder in chosen.folders]
    return max([exit_status(task, "check the folder's permissions") for task in tasks])


def report(folder: Path, config_dir: str | None = None) -> None:
    """Write the report of a run or sweep folder; classes that the choices in `config_dir` name are trusted."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the folder of a run or of a sweep, such as outputs/NAME")
    from diffusion.config.choices import searching
    from diffusion.report.page import NAME, write_page
    from diffusion.report.sweep import compare_jobs
    from diffusion.runs.folder import is_run, is_sweep, runs_below

    if is_run(folder):
        with importing():
            from diffusion.report.run import write_report

        with searching([config_dir]):
            print(write_report(folder))
        print(folder / NAME)
    elif is_sweep(folder) or not any(runs_below(folder)):
        for path in compare_jobs(folder):
            print(path)
    else:
        from diffusion.report.comparison import link_of
        from diffusion.report.index import index_sections

        sections = index_sections(folder, partial(link_of, folder=folder))
        print(write_page(folder, f"Runs in {folder.resolve().name}", sections))


if __name__ == "__main__":
    sys.exit(main())
