"""The studies of conf/results: each composes and runs, and committed results match the current configuration."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion.config.choices import searching
from diffusion.config.composition import composed, plain
from diffusion.config.schema import COMMANDS
from diffusion.config.validation import validated
from diffusion.errors import UserError
from diffusion.report import sweep as sweep_report
from diffusion.report.comparison import recipes_table
from diffusion.report.recipes import Comparison, Row
from diffusion.report.run import CAPTIONS
from diffusion.reproduce import __main__ as reproduce
from diffusion.reproduce import committed, running
from diffusion.reproduce.studies import FigureName, Sweep, count_runs, jobs, names, needed, read, runs_of
from diffusion.runs.folder import jobs_of

COMMITTED = [name for name in names() if committed.record_of(name)]
WORDS = ["a=1,2", "+b=[1,2],[3]", "~c", "d=x", "e@f.g='p,q',r"]
SMALL = [  # makes a smoke run even faster
    "data=folder", "data.resolution=8", "data.batch_size=4", "data.val=8", "data.test=8", "data.limit=null",
    "trainer.accelerator=cpu", "score.audit=[]",
]  # fmt: skip


def test_the_jobs_match_those_of_hydras_sweeper():
    parsed = OverridesParser.create().parse_overrides(WORDS)
    theirs = [[word.replace("~c=null", "~c") for word in job] for job in BasicSweeper.split_arguments(parsed, None)[0]]
    assert jobs(WORDS) == theirs
    assert len(jobs(WORDS)) == 8


@pytest.mark.parametrize("name", names())
def test_the_jobs_of_every_study_have_valid_configurations(name):
    for sweep in read(name).sweeps.values():
        given = ["name=a", "ckpt=a"] if sweep.command == "evaluate" else ["name=a"]
        for case in sweep.cases:
            every = jobs([*sweep.common, *case])
            for job in {tuple(every[0]), tuple(every[-1])}:
                validated(COMMANDS[sweep.command], plain(composed(sweep.command, [*given, *job])))


def test_a_study_may_name_the_figures_of_a_report():
    assert {f"{name}.png" for name in get_args(FigureName)} == CAPTIONS.keys()


def of_others() -> set[str]:
    """The studies whose models another study evaluates, so its smoke run covers them, too."""
    named = {of for name in names() for sweep in read(name).sweeps.values() for of in sweep.of}
    return {of.partition("/")[0] for of in named if "/" in of}


@pytest.mark.parametrize("name", sorted(set(names()) - of_others()))
def test_the_smoke_version_of_every_study_runs(name, command, photos, monkeypatch):
    def here(what, words):
        small = [*SMALL, f"data.root={photos}"] if what == "train" else ["batch_size=8"]
        status, out, err = command(what, [*words, *small, "hydra/launcher=basic"])
        assert status == 0, out + err

    monkeypatch.setattr(running, "run_command", here)
    monkeypatch.setattr(sweep_report, "compare_jobs", lambda folder, console=None: [folder])  # tested elsewhere
    outcome = running.run_study(name, Path("results"), smoke=True)
    assert list(outcome.tables) == list(read(name).sweeps)
    for sweep, table in outcome.tables.items():
        assert sum(map(len, table.numbers.values())) == len(read(name).sweeps[sweep].cases), sweep
        assert {column.name.rpartition("/")[2] for column in table.columns} >= {"fd_lite0", "kid_lite0"}


def test_the_runs_of_a_study_are_counted():
    assert count_runs("samplers") == {"train": 3, "evaluate": 63}
    models = [runs_of(study, read(study).sweeps["train"]) for study in ("architecture", "recipe")]
    assert count_runs("metrics") == {"train": 0, "evaluate": sum(models)}


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_result_matches_the_current_configuration(name):
    assert committed.changed_settings(name) == []


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_table_has_every_run_of_its_sweep(name):
    twice = 3 if name == "metrics" else 0  # models that are in both of its studies
    for sweep, table in committed.tables_of(name).items():
        assert sum(map(len, table.numbers.values())) == runs_of(name, read(name).sweeps[sweep]) - twice


def test_changed_settings_and_removed_sweeps_are_detected(monkeypatch):
    settings = committed.settings_of("schedule", "train")
    (job,) = [job for job in settings if "schedule=sigmoid" in job]
    settings[job]["schedule.start"] = "-9"
    record = {"sweeps": {"train": {"settings": settings}, "gone": {}}}
    monkeypatch.setattr(committed, "record_of", lambda name: record)
    changed, gone = committed.changed_settings("schedule")
    assert changed == "train: schedule.start is -3; committed: -9"
    assert gone == "gone: the study no longer has this sweep"


def test_a_new_setting_that_is_off_is_not_a_change():
    before = {"a": "1"}
    assert committed.changes(before, {"a": "1", "new": "false"}) == []
    assert committed.changes(before, {"a": "1", "new": "none"}) == []
    assert committed.changes(before, {"a": "1", "new": "true"}) == [("new", "none", "true")]
    assert committed.changes({"a": "none"}, {"a": "false"}) == [("a", "none", "false")]


@pytest.mark.parametrize("name", COMMITTED)
def test_a_page_shows_the_committed_numbers(name):
    page = (committed.committed_dir() / name / committed.PAGE).read_text("utf-8")
    assert committed.with_tables(name, page, committed.tables_of(name)) == page
    assert f"python -m diffusion.reproduce {name}" in page


def test_recipes_with_long_labels_are_labelled_by_their_row_in_figures():
    for labels, shown in ((["a=1", "b=2"], ["a=1", "b=2"]), (["a=1", "b" * 53], ["row 1", "row 2"])):
        rows = [Row({}, label, {}, {}) for label in labels]
        assert Comparison([], rows, [], [], []).names == shown


def test_the_readme_shows_committed_numbers():
    readme = (committed.PACKAGE.parent / "README.md").read_text("utf-8")
    shown = re.findall(r"<!-- table: (\w+)/(\w+) -->\n(.*?)\n<!-- end -->", readme, re.DOTALL)
    assert shown
    for name, sweep, table in shown:
        assert table == recipes_table(committed.tables_of(name)[sweep].comparison(read(name).columns))
        assert f"python -m diffusion.reproduce {name}" in readme


def test_unknown_and_invalid_studies_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"schedul: unknown study \(did you mean schedule\?\)"):
        read("schedul")
    (tmp_path / "results").mkdir()
    file = tmp_path / "results/mine.yaml"
    for text, line in (
        ("question: [", "mine.yaml: while parsing"),
        (
            "question: Why?\ncpu_hours: 1\ngpu_hours: 1\nsweeps: {}\nfigures: [sgnal]",
            "mine.yaml: figures=[sgnal]: expected a list, each samples, mse,",
        ),
        ("question: Why?\ncpu_hours: 0\ngpu_hours: 1\nsweeps: {}", "mine.yaml: cpu_hours=0: expected a number above 0"),
    ):
        file.write_text(text)
        with searching([tmp_path]), pytest.raises(UserError, match=re.escape(line)):
            read("mine")


STUDY = """\
question: Does the learning rate matter?
cpu_hours: 0.1
gpu_hours: 0.1
figures: [signal]
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


def test_a_study_is_run_committed_and_compared(command, tiny, tmp_path, monkeypatch, capfd):
    ran = []

    def here(what, words):
        status, out, err = command(what, words)
        assert status == 0, out + err
        for run in Path("outputs/results/mine/train").glob("[01]"):  # small runs draw none
            for file in ("figures/signal.png", "samples/final.png"):
                (run / file).parent.mkdir(exist_ok=True)
                (run / file).write_text(run.name)
        ran.append(out.count("is already complete"))

    monkeypatch.setattr(running, "run_command", here)
    monkeypatch.setattr(committed, "committed_dir", lambda: tmp_path / "docs")
    (tmp_path / "conf/results").mkdir(parents=True)
    words = [*tiny, "trainer.max_steps=2", "seed=0,1"]
    (tmp_path / "conf/results/mine.yaml").write_text(STUDY.format(common=json.dumps(words)))

    def run(*options, overrides=()):
        return reproduce.main(["mine", *overrides, "--config-dir", str(tmp_path / "conf"), *options])

    assert run("--commit", "docs") == 0
    page = (tmp_path / "docs/mine/README.md").read_text()
    assert page.count("<!-- table: ") == page.count("<!-- end -->") == 2
    assert (tmp_path / "docs/mine/train-signal-1.png").read_text() == "0"
    assert (tmp_path / "docs/mine/train-samples.png").read_text() == "0"
    with pytest.raises(UserError, match=r"figures: sgnal: .* has no such figure; it has: .*signal"):
        committed.keep_figures(["sgnal"], "train", [Path("outputs/results/mine/train/0")], tmp_path)
    del ran[:]
    assert run() == 0
    assert ran == [2, 2], "complete runs and evaluations are not run again"
    capfd.readouterr()
    assert run(overrides=["guidance=none"]) == 0  # with other overrides, in the same folder
    assert "the committed result was made without guidance=none" in capfd.readouterr().out
    assert run() == 0
    assert "2 runs in outputs/results/mine/drawn with other overrides" in " ".join(capfd.readouterr().out.split())
    table = tmp_path / "docs/mine/drawn.csv"
    head, *lines = table.read_text().splitlines()
    place = head.split(",").index("fd_lite0")
    cells = [line.split(",") for line in lines]
    changed = [[*row[:place], f"{float(row[place]) + 1e6}", *row[place + 1 :]] for row in cells]
    table.write_text("\n".join([head, *map(",".join, changed)]) + "\n")
    capfd.readouterr()
    assert run() == 1
    said = capfd.readouterr().out
    assert ": fd_lite0 is " in said
    record = tmp_path / "docs/mine/record.json"
    record.write_text(record.read_text().replace('"trainer.max_steps": "2"', '"trainer.max_steps": "3"'))
    with searching([tmp_path / "conf"]):
        assert committed.changed_settings("mine") == ["train: trainer.max_steps is 2; committed: 3"]


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

    monkeypatch.setattr(running.subprocess, "Popen", Process)
    assert reproduce.main(["schedule"]) == 130
    assert "interrupted; the same command resumes" in capsys.readouterr().out


def test_the_studies_that_train_the_models_of_another_are_named():
    assert needed("metrics") == ["architecture (at most 2.3 h)", "recipe (at most 2.2 h)"]
    assert needed("samplers") == []


def test_equal_models_of_two_studies_are_evaluated_once(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(running, "run_command", lambda command, words: ran.append(words))
    done = {}
    for study, rates in (("architecture", (1, 2)), ("recipe", (1, 3))):
        done[study, "train"] = tmp_path / study
        for i, rate in enumerate(rates):
            (tmp_path / f"{study}/{i}").mkdir(parents=True)
            (tmp_path / f"{study}/{i}/config.yaml").write_text(f"optimizer: {{lr: {rate}}}")
    running.run_sweep("metrics", "scores", tmp_path, [], False, done)
    ((_, ckpt, *_),) = ran
    assert ckpt == f"ckpt={tmp_path}/architecture/0,{tmp_path}/architecture/1,{tmp_path}/recipe/1"


def test_only_the_runs_of_a_command_are_taken_and_those_without_a_record():
    """A job that was resumed alone has lost its overrides; with none of the command's runs, all are taken."""
    sweep = Sweep(command="train", common=["seed=0,1"], cases=[["a=[true]"]])
    words = [["seed=0", "a=[True]"], ["seed=1", "a=[True]", "b=2"], []]
    runs = [SimpleNamespace(folder=Path(f"x/{i}"), overrides=each) for i, each in enumerate(words)]
    assert running.of_command(runs, sweep, ["hydra/launcher=joblib"], False) == [runs[0], runs[2]]
    assert running.of_command(runs, sweep, ["b=2"], False) == [runs[1], runs[2]]
    assert running.of_command(runs[:2], sweep, ["b=3"], False) == runs[:2]


def test_runs_are_ordered_as_in_the_study_not_by_folder(tmp_path):
    sweep = Sweep(command="evaluate", common=["n=8"], cases=[[], ["sampler=ddim,heun", "sampler.steps=5,13"]])
    words = ["sampler=heun,13", "sampler=heun,5", "sampler=ddim,5", "weights=raw,5"]
    for i, word in enumerate(words):
        sampler, steps = word.split(",")
        (tmp_path / f"{i}/.hydra").mkdir(parents=True)
        (tmp_path / f"{i}/run.json").write_text("{}")
        (tmp_path / f"{i}/.hydra/overrides.yaml").write_text(f"- ckpt=a\n- n=8\n- {sampler}\n- sampler.steps={steps}\n")
    ordered = running.in_order(jobs_of(tmp_path), sweep)
    assert [run.folder.name for run in ordered] == ["3", "2", "1", "0"]
