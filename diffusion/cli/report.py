"""Draw the figures of a run and write its README.md and report.html, or compare the runs of a sweep.

report.html is a page for the browser; it needs no other file and no network.

  a run's folder     figures/*.png (samples, mse, gap, others, signal), README.md, report.html
  a sweep's folder   compare.md, runs.csv, report.html; the comparison is printed too
  a study's folder   study.md, study.csv, figures/*.png, report.html; the table is printed too
  a folder of runs   report.html, a list of the runs with links to their pages

Nothing is trained or sampled, and no checkpoint is read. It can be rerun at any time, even during the run.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from diffusion.base.files import replace
from diffusion.errors import Arguments


def report(folders: Sequence[Path], config_dir: str | None) -> None:
    """Write the report of each folder; classes that the choices in `config_dir` name are trusted."""
    from diffusion.config.choices import searching
    from diffusion.report.comparison import link_of, write
    from diffusion.report.index import index_sections, lines_below
    from diffusion.report.page import NAME, document
    from diffusion.report.run import write_report
    from diffusion.runs.folder import DAMAGED, is_run, is_sweep, runs_below

    for folder in folders:
        if is_run(folder):
            with searching([config_dir]):
                print(*write_report(folder), sep="\n")
        elif is_sweep(folder) or not any(runs_below(folder)):
            write([folder], folder)
        else:
            sections = index_sections(folder, partial(link_of, folder=folder))
            replace(folder / NAME, document(f"Runs in {folder.resolve().name}", sections))
            print(*(line.reason for line in lines_below(folder) if line.state == DAMAGED), folder / NAME, sep="\n")


main = Arguments("report", __doc__, report)
main.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run's or a sweep's folder")
main.add_config_dir()
