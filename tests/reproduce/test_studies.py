"""The studies of conf/results: each composes and runs, and committed results match the configuration and the pages."""

import json
import os
import re
import runpy
import signal

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion.base.files import PACKAGE
from diffusion.config.build import validated
from diffusion.config.choices import choices, composed, searching
from diffusion.config.schema import COMMANDS
from diffusion.errors import UserError
from diffusion.extras import reproduce
from diffusion.extras.reproduce import StudySweep, read

RESULTS = PACKAGE.parent / "docs/results"
TABLES = [(name, table) for name in choices("results") for table in reproduce.committed(name)]
TABLES += [(table.parts[-3], table) for table in RESULTS.glob("*/scores/*.csv")]  # of scripts in docs/


def jobs(sweep: StudySweep) -> list[list[str]]:
    """The overrides of each job of a sweep."""
    parse = OverridesParser.create().parse_overrides
    commands = [parse([*sweep.common, *case]) for case in sweep.cases]
    return [job for words in commands for job in BasicSweeper.split_arguments(words, None)[0]]


@pytest.mark.parametrize("name", choices("results"))
def test_every_study_is_valid(name):
    for sweep in read(name).sweeps.values():
        given = ["name=a", "ckpt=a"] if sweep.command == "evaluate" else ["name=a"]
        with searching([read(name).config_dir]):
            validated(COMMANDS[sweep.command], composed(sweep.command, [*given, *jobs(sweep)[-1]]))


@pytest.mark.parametrize(("name", "table"), TABLES, ids=[f"{name}/{table.stem}" for name, table in TABLES])
def test_the_pages_show_the_committed_numbers(name, table):
    """A table has a row for each recipe, in order; a cell may be bold, or end with ≈."""
    sweep, means = table.stem, reproduce.means(table)
    if table.parent.name == name and not read(name).sweeps[sweep].of:
        assert table.read_text("utf-8").count("\n") == 1 + len(jobs(read(name).sweeps[sweep]))
    recipes = list(dict.fromkeys(recipe for recipe, _ in means))
    page = (RESULTS / name / "README.md").read_text("utf-8")
    shown = [re.search(rf"<!-- table: {sweep} -->\n(.*?)\n<!-- end -->", page, re.DOTALL)]
    readme = (PACKAGE.parent / "README.md").read_text("utf-8")
    shown += re.finditer(rf"<!-- table: {name}/{sweep} -->\n(.*?)\n<!-- end -->", readme, re.DOTALL)
    found = 0
    for each in shown:
        head, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in each[1].splitlines())
        assert len(lines) == len(recipes)
        for recipe, line in zip(recipes, lines, strict=True):
            for column, cell in zip(head, line, strict=True):
                if (mean := means.get((recipe, column.split(" ")[0]))) is not None:
                    assert cell.strip("*").removesuffix(" ≈") == str(mean)
                    found += 1
    assert found >= len(recipes)


def test_the_ledger_shows_the_committed_numbers():
    found = runpy.run_path(str(RESULTS / "claims/ledger.py"))["ledger"]()
    assert f"<!-- ledger -->\n{found}\n<!-- end" in (RESULTS / "claims/README.md").read_text("utf-8")


def test_several_samplings_of_one_model_count_as_one_seed(tmp_path):
    lines = ["a,seed,fd", *(f"x,{i}/{k},{i + k}" for i in (0, 4) for k in (0, 2))]
    (tmp_path / "drawn.csv").write_text("\n".join(lines))
    ((cell, mean),) = reproduce.means(tmp_path / "drawn.csv").items()
    assert cell == ("a=x", "fd")
    assert (mean.mean, mean.of_seeds) == (3, [1, 5])


STUDY = """\
question: Does the learning rate matter?
cpu_hours: 0.1
gpu_hours: 0.1
sweeps:
  train:
    command: train
    common: {common}
    cases:
      - [optimizer.lr=0.001]
  drawn:
    command: evaluate
    of: [train]
    common: [n=8, batch_size=8, features=lite0, metrics=standard, "baselines=[]"]
    cases:
      - [sampler.steps=3]
"""


def test_a_study_is_run_committed_and_compared(ran, tiny, tmp_path, monkeypatch, capfd):
    complete, out = [], tmp_path / "one, two"  # of which Hydra would make a sweep

    def here(what, words):
        complete.append(ran(what, words).count("is already complete"))

    monkeypatch.setattr(reproduce, "run_command", here)
    monkeypatch.setattr("diffusion.training.ending.write_report", lambda *_, **__: None)
    monkeypatch.setattr("diffusion.scoring.pipeline.Scorer.judge", lambda *_: None)
    monkeypatch.setattr(reproduce, "committed", lambda name: sorted((tmp_path / "docs" / name).glob("*.csv")))
    (tmp_path / "conf/results").mkdir(parents=True)
    words = [*tiny, "trainer.max_steps=1", "samples.n=0", "seed=0,1"]
    (tmp_path / "conf/results/mine.yaml").write_text(STUDY.format(common=json.dumps(words)))

    def run(*options):
        reproduce.run_sweep.cache_clear()
        return reproduce.main(["mine", "--config-dir", str(tmp_path / "conf"), "--out", str(out), *options])

    commit = runpy.run_path(str(PACKAGE.parent / "docs/results/commit.py"))["commit"]
    assert run() == 0
    with searching([tmp_path / "conf"]):
        commit("mine", out, tmp_path / "docs")
    assert run() == 0
    table = tmp_path / "docs/mine/drawn.csv"
    head, *lines = (line.split(",") for line in table.read_text().splitlines())
    place = head.index("fd_lite0")
    changed = [[*line[:place], f"{float(line[place]) + 1e6}", *line[place + 1 :]] for line in lines]
    table.write_text("\n".join(map(",".join, [head, *changed])) + "\n")
    capfd.readouterr()
    del complete[:]
    assert run() == 1
    assert complete == [2, 2], "complete runs and evaluations are not run again"
    assert "fd_lite0 is " in capfd.readouterr().out


def test_a_study_waits_for_an_interrupted_command_and_then_stops(monkeypatch, capsys):
    class Process:
        """It receives Ctrl-C, too, and saves."""

        def __init__(self, words):
            self.waited = 0

        def wait(self):
            self.waited += 1
            if self.waited == 1:
                raise KeyboardInterrupt
            return 130

    monkeypatch.setattr(reproduce.subprocess, "Popen", Process)
    with pytest.raises(KeyboardInterrupt):
        reproduce.run_command("train", [])
    assert reproduce.main(["schedule"]) == 130


def test_sigterm_ends_the_command_of_a_study_too(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    class Process:
        ended = False

        def __init__(self, words):
            pass

        def terminate(self):
            self.ended = True

        def wait(self):
            os.kill(os.getpid(), signal.SIGTERM)
            return -15 if self.ended else 0

    monkeypatch.setattr(reproduce.subprocess, "Popen", Process)
    with pytest.raises(UserError, match="-15; rerun"):
        reproduce.run_command("train", [])
    assert signal.getsignal(signal.SIGTERM) == before


def test_invalid_studies_are_refused(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/mine.yaml").write_text("question: Why?\ncpu_hours: 0\nsweeps: {}")
    with searching([tmp_path]), pytest.raises(UserError, match=r"results/mine\.yaml"):
        read("mine")
    with pytest.raises(UserError, match="schedule"):
        read("schedul")
