"""`python -m diffusion.reproduce [STUDY]`: list the studies of docs/results with their costs, or rerun one."""

import sys
from argparse import Namespace
from pathlib import Path

from diffusion.console import console, count
from diffusion.errors import Arguments, Interrupted, exit_status

ABOUT = """\
Rerun a study of docs/results, and compare its numbers with the committed ones. Without STUDY, list the studies and
their costs.

  python -m diffusion.reproduce                                  the studies; nothing is run
  python -m diffusion.reproduce schedule                         run one, or its missing runs
  python -m diffusion.reproduce schedule hydra/launcher=joblib hydra.launcher.n_jobs=4     up to four runs at once
  python -m diffusion.reproduce schedule --smoke                 one short run of each sweep: does it work here?

A study is a file in conf/results or CONF/results: sweeps of diffusion.train and diffusion.evaluate. Its runs go to a
separate folder in outputs/results; after an interruption, the same command resumes there. A number agrees with the
committed one if their difference lies within its 95% interval over seeds; all others are listed. Numbers of a single
seed have no interval: they are listed, but do not count. Exit status: 0 if all agree; 1 if some do not; 2 for an error
that you can fix, with one line on stderr; 130 after Ctrl-C.
"""


def main(arguments: list[str] | None = None) -> int:
    """List the studies or run one. Returns the exit status, as explained in `ABOUT`."""
    parser = Arguments("reproduce", ABOUT)
    parser.add_argument("study", nargs="?", help="the study's name, as listed")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings for every run, such as hydra/launcher=joblib"
    )
    parser.add_argument("--smoke", action="store_true", help="only the first run of each sweep, for a few seconds")
    parser.add_argument("--out", type=Path, default=Path("outputs/results"), help="default: outputs/results")
    parser.add_argument(
        "--commit", type=Path, metavar="FOLDER", help="for developers: write the tables to FOLDER/STUDY"
    )
    parser.add_config_dir()
    asked = parser.parse_args(arguments)
    differing: list[str] = []

    def run() -> None:
        from diffusion.config.choices import searching

        with searching([asked.config_dir]):
            if asked.study is None:
                list_studies()
            else:
                differing.extend(reproduce(asked))

    try:
        return exit_status(run, "check the folder's permissions, or use --out") or int(bool(differing))
    except Interrupted as stop:
        return stop.status


def list_studies() -> None:
    """Print the studies: question, number of runs, cost, and the date of the committed result."""
    from diffusion.reproduce.committed import committed_dir, record_of
    from diffusion.reproduce.studies import cost, names, read

    for name in names():
        when = record_of(name)["date"]
        console.print(f"{name}: {read(name).question}", style="bold")
        console.print(f"  {cost(name)}\n  {f'result of {when}' if when else 'no result yet'}\n")
    console.print(f"results are in {committed_dir()}; python -m diffusion.reproduce STUDY runs one")


def reproduce(asked: Namespace) -> list[str]:
    """Run the missing runs of a study. Returns a line per number that does not agree with the committed one."""
    from diffusion.reproduce import committed
    from diffusion.reproduce.running import run_study, without_hydra
    from diffusion.reproduce.studies import cost, read

    name, root = asked.study, asked.out / "smoke" if asked.smoke else asked.out
    console.print(f"{read(name).question}\n{cost(name)}")
    own = [] if asked.config_dir is None else ["--config-dir", asked.config_dir]
    sweeps = run_study(name, root, [*asked.overrides, *own], asked.smoke)
    console.print(f"\nall runs of {name} are complete: {root / name}")
    if asked.smoke:
        return []
    if asked.commit is not None:
        committed.commit(name, sweeps, asked.commit / name)
        return []
    if chosen := without_hydra(asked.overrides):
        console.print(f"note: the committed result was made without {' '.join(chosen)}")
    for line in committed.changed_settings(name):
        console.print(f"warning: the configuration has changed: {line}", style="yellow")
    found = []
    for sweep in [sweep for sweep in sweeps if sweep in committed.record_of(name)["sweeps"]]:
        lines = list(committed.differences(name, sweep, sweeps[sweep]))
        for line, counts in lines:
            console.print(f"{sweep}: {line}", style="yellow" if counts else None)
        console.print(f"{sweep}: {count(len(lines), 'number')} differ from the committed ones")
        found += [line for line, counts in lines if counts]
    return found


if __name__ == "__main__":
    sys.exit(main())
