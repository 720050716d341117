"""`python -m diffusion.reproduce [STUDY]`: list the studies of docs/results with their costs, or rerun one."""

import sys
from pathlib import Path

from diffusion.console import console, count, duration
from diffusion.errors import Arguments, Interrupted, exit_status

ABOUT = """\
Rerun a study of docs/results, and compare its numbers with the committed ones. Without STUDY, list the studies and
their costs.

  python -m diffusion.reproduce                                  the studies; nothing is run
  python -m diffusion.reproduce schedule                         run one, or its missing runs
  python -m diffusion.reproduce schedule hydra/launcher=joblib hydra.launcher.n_jobs=4     up to four runs at once
  python -m diffusion.reproduce schedule --smoke                 one short run of each kind: does it work here?

A study is a file in conf/results or CONF/results: sweeps of diffusion.train and diffusion.evaluate. Its runs go to a
separate folder in outputs/results; after an interruption, the same command resumes there. A number agrees with the
committed one if their difference lies within its 95% interval over seeds; all others are listed. Numbers of a single
seed have no interval: they are listed, but not compared. Exit status: 0 if all agree; 1 if some do not; 2 for an error
that you can fix, with one line on stderr; 130 after Ctrl-C.
"""


def main(arguments: list[str] | None = None) -> int:
    """List the studies or run one. Returns the exit status, as explained in `ABOUT`."""
    parser = Arguments("reproduce", ABOUT)
    parser.add_argument("study", nargs="?", help="the study's name, as listed")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings for every run, such as hydra/launcher=joblib"
    )
    parser.add_argument("--smoke", action="store_true", help="only the first run of each kind, for a few seconds")
    parser.add_argument("--out", type=Path, default=Path("outputs/results"), help="default: outputs/results")
    parser.add_argument(
        "--commit",
        type=Path,
        metavar="FOLDER",
        help="for developers: write the result into FOLDER/STUDY, as docs/results",
    )
    parser.add_config_dir()
    asked = parser.parse_args(arguments)
    differing: list[str] = []

    def run() -> None:
        from diffusion.config.choices import searching

        own = [] if asked.config_dir is None else ["--config-dir", asked.config_dir]
        with searching([asked.config_dir]):
            if asked.study is None:
                list_studies()
            else:
                words = [*asked.overrides, *own]
                differing.extend(reproduce(asked.study, asked.out, words, asked.smoke, asked.commit))

    try:
        return exit_status(run, "check the folder's permissions, or use --out") or int(bool(differing))
    except Interrupted as stop:
        return stop.status


def list_studies() -> None:
    """Print the studies: question, number of runs, cost, and the date of the committed result."""
    from diffusion.reproduce.committed import committed_dir, record_of
    from diffusion.reproduce.studies import count_runs, names, needed, read

    width = max(map(len, names())) + 2
    for name in names():
        study, record = read(name), record_of(name)
        runs = " and ".join(f"{count(n, 'run')} of diffusion.{command}" for command, n in count_runs(name).items() if n)
        said = f"result of {record['date']}" if record else "no result yet"
        console.print(f"{name:{width}}{study.question}")
        console.print(
            f"{'':{width}}{runs}: about {study.cpu_hours:g} h of a CPU core, or {study.gpu_hours:g} h of a GPU"
        )
        if others := needed(name):
            console.print(f"{'':{width}}it needs models of {' and '.join(others)}, and trains those that are missing")
        console.print(f"{'':{width}}{said}\n")
    console.print(f"results are in {committed_dir()}; python -m diffusion.reproduce STUDY runs one")


def reproduce(name: str, out: Path, overrides: list[str], smoke: bool, commit: Path | None) -> list[str]:
    """Run the missing runs of a study. Returns a line per number that does not agree with the committed one."""
    from diffusion.reproduce import committed
    from diffusion.reproduce.running import run_study, without_hydra
    from diffusion.reproduce.studies import count_runs, needed, read
    from diffusion.reproduce.table import agreeing, disagreements, uncompared

    study, root = read(name), out / "smoke" if smoke else out
    console.print(study.question)
    runs = " and ".join(f"{count(n, 'run')} of diffusion.{command}" for command, n in count_runs(name).items() if n)
    if not smoke:
        console.print(f"{runs}: about {study.cpu_hours:g} hours of one CPU core, or {study.gpu_hours:g} of a GPU")
        if others := needed(name):
            console.print(f"it needs models of {' and '.join(others)}, and trains those that are missing in {root}")
    outcome = run_study(name, root, overrides, smoke)
    if smoke:
        console.print(f"\nevery kind of run works: {root / name}")
        return []
    console.print(f"\nall runs of {name} are complete, after {duration(outcome.seconds)} in all: {root / name}")
    if commit is not None:
        for path in committed.commit(name, outcome, commit / name):
            console.print(str(path))
        return []
    before = committed.tables_of(name)
    if not before:
        console.print("no result of this study is committed, so there is nothing to compare with")
        return []
    if chosen := without_hydra(overrides):
        console.print(f"note: the committed result was made without {' '.join(chosen)}")
    for line in committed.changed_settings(name):
        console.print(f"warning: the committed result belongs to another configuration: {line}", style="yellow")
    found = []
    for sweep, table in before.items():
        if sweep not in outcome.tables:  # already covered by the warning
            found.append(f"{sweep}: not rerun")
            continue
        again = outcome.tables[sweep]
        confirmed, all_of_them = agreeing(table, again)
        console.print(f"{sweep}: {confirmed} of {count(all_of_them, 'number')} agree with the committed ones")
        for line in uncompared(table, again):
            console.print(f"{sweep}: {line}")
        found += [f"{sweep}: {line}" for line in disagreements(table, again)]
    for line in found:
        console.print(line, style="yellow")
    return found


if __name__ == "__main__":
    sys.exit(main())
