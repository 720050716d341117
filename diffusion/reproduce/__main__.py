"""Rerun a study of docs/results, and compare its numbers with the committed ones; without STUDY, list the studies.

  python -m diffusion.reproduce                                  the studies; nothing is run
  python -m diffusion.reproduce schedule                         run one, or its missing runs
  python -m diffusion.reproduce schedule hydra/launcher=joblib hydra.launcher.n_jobs=4     up to four runs at once

A study is a file in conf/results or CONF/results: sweeps of diffusion.train and diffusion.evaluate. Its runs go to a
separate folder in outputs/results (another one if settings are changed); after an interruption, the same command
resumes there. A number agrees with the
committed one if their difference lies within its 95% interval over seeds; all others are listed. Numbers of a single
seed have no interval: they are listed, but do not count. Exit status: 0 if all agree; 1 if some do not; 2 for an error
that you can fix, with one line on stderr; 130 after Ctrl-C.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusion.console import console
from diffusion.errors import Arguments
from diffusion.files import digest


def main(arguments: list[str] | None = None) -> int:
    """List the studies or run one. Returns the exit status, as explained above."""
    parser = Arguments("reproduce", __doc__)
    parser.add_argument("study", nargs="?", help="the study's name, as listed")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings for every run, such as hydra/launcher=joblib"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/results"), help="default: outputs/results")
    parser.add_config_dir()
    return parser.run(reproduce, arguments)


def reproduce(study: str | None, overrides: Sequence[str], out: Path, config_dir: str | None) -> None:
    """List the studies, or run the missing runs of one and compare its numbers with the committed ones."""
    from diffusion.config.choices import choices, searching
    from diffusion.reproduce import studies

    with searching([config_dir]):
        if study is None:
            for name in choices("results"):
                when = studies.record_of(name)["date"]
                console.print(f"{name}: {studies.read(name).question}", style="bold")
                console.print(f"  {studies.cost(name)}\n  {f'result of {when}' if when else 'no result yet'}\n")
            console.print(f"results: {studies.committed_dir()}; python -m diffusion.reproduce STUDY runs one")
            return
        console.print(f"{studies.read(study).question}\n{studies.cost(study)}")
        changed = [word for word in overrides if not word.lstrip("+~").startswith("hydra")]
        root = out / f"changed-{digest(*changed)[:8]}" if changed else out
        sweeps = studies.run_study(study, root, [*overrides, *(["--config-dir", config_dir] if config_dir else [])])
        console.print(f"\nall runs of {study} are complete: {root / study}")
        studies.check(study, sweeps)


if __name__ == "__main__":
    sys.exit(main())
