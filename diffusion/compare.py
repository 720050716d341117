"""Compare runs or whole sweeps: a row per recipe, mean ± interval over its training seeds.

  python -m diffusion.compare outputs/demo/sweep-…            a sweep
  python -m diffusion.compare RUN RUN SWEEP …                 runs and sweeps together

Only settings that differ are shown. Runs that differ only in their seed share a row; if a seed was run several times,
only the newest run counts. Scores of different protocols are not comparable: the command then lists the differences and
stops, unless --mixed is set. Nothing is trained or sampled.
Writes compare.md, report.html, runs.csv and compare.png.
"""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from diffusion.console import console, count
from diffusion.errors import Arguments


def main(arguments: list[str] | None = None) -> int:
    """Compare folders. Returns the exit status: 0, or 2 with one line on stderr."""
    parser = Arguments("compare", __doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run's or a sweep's folder")
    parser.add_argument("--mixed", action="store_true", help="show scores of different protocols, in separate columns")
    parser.add_argument("--out", type=Path, help="default: the folder of a single sweep, else outputs/comparisons/TIME")
    return parser.run(write, arguments)


def write(folders: Sequence[Path], mixed: bool, out: Path | None) -> None:
    """Write and print the comparison of the runs and sweeps."""
    from diffusion.report import comparison as report  # imports scipy and matplotlib, so only when needed
    from diffusion.report.compare import compare, gather
    from diffusion.runs.folder import is_sweep

    comparison = compare(gather(folders), mixed)
    alone = folders[0] if len(folders) == 1 and is_sweep(folders[0]) else None
    out = out or alone or Path(f"outputs/comparisons/{datetime.now():%Y-%m-%d_%H-%M-%S}")
    runs = sum(len(row.values) for row in comparison.rows)
    for path in report.write(comparison, out, f"{count(runs, 'run')}, {count(len(comparison.rows), 'recipe')}"):
        console.print(path)


if __name__ == "__main__":
    sys.exit(main())
