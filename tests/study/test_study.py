"""Studies of samplers and of guidance: budgets, the same noise for all settings, and what is refused."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from diffusion.config.build import make
from diffusion.errors import UserError
from diffusion.findings.scores import value_text
from diffusion.process.schedule import linear
from diffusion.runs.folder import read_scores
from diffusion.sampling.drawing import Drawing, evaluations
from diffusion.scoring.trials import within_budgets

pytestmark = pytest.mark.usefixtures("undrawn")  # test_study_report has the charts
KNOWN = {"ddim": 10, "heun": 9, "predictor_corrector": 10}
QUICK = ["n=6", "features=lite0", "device=cpu", "metrics.kernel=null", "hydra.run.dir=out"]


def rows_of(folder: Path, *columns: str) -> list[tuple[str, ...]]:
    (table,) = folder.glob("*.csv")
    with table.open() as file:
        return [tuple(row[column] for column in columns) for row in csv.DictReader(file)]


def test_every_sampler_uses_the_most_steps_within_the_budget() -> None:
    found = within_budgets([*KNOWN, "heun sampler.churn=1"], [10], linear())
    assert {trial.words: trial.nfe for trial in found} == KNOWN | {"heun sampler.churn=1": 9}
    for trial in found:
        more = {**trial.sampler, "steps": trial.sampler["steps"] + 1}
        assert evaluations(make(more, "sampler"), linear()) > 10
    with pytest.raises(UserError):
        within_budgets(["predictor_corrector"], [1], linear())


def test_a_short_table_limits_the_steps_of_a_sampler() -> None:
    """A schedule of T = 8 has no 12 uniform steps, but 12 on a grid."""
    found = within_budgets(["ddim", "dpm_2m"], [6, 12], linear(steps=8))
    assert [(trial.words, trial.nfe) for trial in found] == [("ddim", 6), ("ddim", 8), ("dpm_2m", 6), ("dpm_2m", 12)]


def test_a_study_of_samplers_goes_on_after_it_was_killed(command, ran, two_steps, tmp_path, monkeypatch) -> None:
    words = [f"ckpt={two_steps}", "samplers=[ddim,heun]", "nfe=[3,6]", "batch_size=4", "n=6"]
    ran("study", ["sampler", *QUICK, *words])
    assert rows_of(tmp_path / "out", "sampler", "steps", "nfe") == [
        ("ddim", "3", "3"), ("ddim", "6", "6"), ("heun", "2", "3"), ("heun", "3", "5"), ("split_half", "", ""),
    ]  # fmt: skip
    scores = read_scores(tmp_path / "out")
    assert {(s.n, s.source.get("seed", 0), s.source.get("nfe")) for s in scores if s.what == "samples"} == {
        (6, 0, 3), (6, 0, 5), (6, 0, 6),
    }  # fmt: skip
    (floor,) = [score for score in scores if (score.what, score.metric) == ("split_half", "fd_lite0")]
    assert value_text(floor) in (tmp_path / "out/study.md").read_text()

    drawn, streams = [], Drawing.streams  # of a batch, when it is drawn

    def counted(self: Drawing, *args: object) -> object:
        if len(drawn) == stop:
            raise KeyboardInterrupt
        drawn.append((type(self.sampler).__name__, self.sampler.steps))
        return streams(self, *args)

    monkeypatch.setattr(Drawing, "streams", counted)
    stop = 4
    parts = [*words, "hydra.run.dir=parts"]
    assert command("study", ["sampler", *QUICK, *parts])[0] == 130
    del drawn[:]
    stop = -1
    ran("study", ["sampler", *QUICK, *parts])
    assert drawn == [("Heun", 2), ("Heun", 2), ("Heun", 3), ("Heun", 3)]
    assert [s.identity for s in read_scores(tmp_path / "parts")] == [s.identity for s in scores]
    assert not (tmp_path / "parts/.drawn").exists()


def test_every_setting_on_the_test_split_counts(ran, two_steps, tmp_path: Path) -> None:
    shutil.copytree(two_steps, tmp_path / "run")
    ran("study", ["sampler", *QUICK, "ckpt=run", "samplers=[ddim]", "nfe=[2,3]", "split=test", "baselines=[]"])
    entries = json.loads((tmp_path / "run/test.json").read_text())
    assert [(entry["test_evaluation"], entry["sampler"]["steps"]) for entry in entries] == [(1, 2), (2, 3)]


def test_every_scale_in_every_interval_is_scored_and_counted(ran, labelled, tmp_path) -> None:
    """Scale 1 is drawn once, without the weak estimate."""
    words = [
        "guidance=cfg",
        "scales=[3,1,0.5,3]",
        "intervals=[[null,null],[0.5,5]]",
        "samplers=['ddim sampler.steps=4']",
        "steps=9",
    ]
    ran("study", ["guidance", *QUICK, f"ckpt={labelled}", *words])
    of_ddim = [
        ("", "", "1.0", "4"), ("", "", "0.5", "8"), ("", "", "3.0", "8"), ("0.5", "5.0", "0.5", "6"),
        ("0.5", "5.0", "3.0", "6"),
    ]  # fmt: skip
    assert rows_of(tmp_path / "out", "low", "high", "scale", "nfe")[:-1] == of_ddim
    scores = [s for s in read_scores(tmp_path / "out") if (s.metric, s.what) == ("fd_lite0", "samples")]
    assert [(s.source["nfe"], s.source["guidance"]["scale"]) for s in scores[:3]] == [(4, 1), (8, 0.5), (8, 3)]
    assert len({s.value for s in scores}) == 5


def test_a_model_without_labels_can_be_studied_with_autoguidance(ran, two_steps, tmp_path) -> None:
    words = ["guidance=auto", f"guidance.ckpt={two_steps}", "guidance.weights=raw", "scales=[2]", "baselines=[]"]
    ran("study", ["guidance", *QUICK, f"ckpt={two_steps}", *words, "steps=2"])
    assert rows_of(tmp_path / "out", "sampler", "scale", "nfe") == [
        ("run (DDIM)", "1.0", "2"),
        ("run (DDIM)", "2.0", "4"),
    ]


REFUSED = {
    "no guidance to study": ["guidance", "guidance=none"],
    "only scale 1": ["guidance", "guidance=cfg", "scales=[1]"],
    "no step inside": ["guidance", "guidance=cfg", "intervals=[[0.5,0.51]]", "scales=[2]", "steps=2"],
    "no such sampler": ["sampler", "samplers=[dim]"],
    "no study": ["samplr"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_studies_are_refused_with_one_line(refused, labelled, tmp_path, name) -> None:
    refused("study", [*REFUSED[name], *QUICK, f"ckpt={labelled}"])
    assert not (tmp_path / "out/.drawn").exists()
