"""A study of samplers: each stays within its budget, all use the same noise, and the cost is printed first."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from diffusion.config.choices import conf_dir
from diffusion.errors import UserError
from diffusion.evaluation.cost import evaluations
from diffusion.evaluation.drawing import Drawing
from diffusion.evaluation.team import Team
from diffusion.process.schedule import linear
from diffusion.report.formatting import value_text
from diffusion.runs.folder import read_scores
from diffusion.study.samplers import settings_of

KNOWN = {"ddim": 10, "heun": 9, "predictor_corrector": 10}


def test_every_sampler_uses_the_most_steps_within_the_budget() -> None:
    found = settings_of([*KNOWN, "heun sampler.churn=1"], [10], linear())
    with pytest.raises(UserError, match="raise nfe"):
        settings_of(["predictor_corrector"], [1], linear())
    with pytest.raises(UserError, match=r"^samplers: probability_flow chooses its own number"):
        settings_of(["probability_flow"], [10], linear())
    assert {s.name: s.nfe for s in found} == KNOWN | {"heun sampler.churn=1": 9}
    for setting in found:
        more = type(setting.sampler)(**{**vars_of(setting.sampler), "steps": setting.sampler.steps + 1})
        assert evaluations(more, linear()) > 10


def test_all_selects_the_compatible_samplers_and_reports_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    """`probability_flow` chooses its evaluations; a schedule of T = 8 has no 12 uniform steps, but 12 on a grid.

    The noise of this schedule ends where the last step of `consistency` should begin.
    """
    found = settings_of("all", [6, 12], linear(steps=8))
    there = {file.stem for file in (conf_dir() / "sampler").glob("*.yaml")}
    assert {s.name for s in found} == there - {"probability_flow", "consistency"}
    assert {s.nfe for s in found if s.name == "dpm_2m"} == {6, 12}
    assert {s.nfe for s in found if s.name == "ddim"} == {6}
    out = capsys.readouterr().out
    assert "probability_flow: skipped from 6 evaluations on (samplers: probability_flow chooses its own" in out
    assert "\nddim: skipped from 12 evaluations on (sampler: steps = 12, but the schedule has only T = 8 rows" in out
    assert "consistency: skipped from 6 evaluations on (sampler: the grid's sigma_min = 0.821" in out
    assert "dpm_2m" not in out


def test_no_setting_exceeds_its_budget_even_if_the_estimate_is_too_high(monkeypatch: pytest.MonkeyPatch) -> None:
    """If evaluations do not rise evenly with the steps, the estimate is too high; then the count decides."""
    monkeypatch.setattr("diffusion.study.samplers.most_steps", lambda *_: 11)
    assert {s.nfe for s in settings_of(["ddim"], [10, 11, 20], linear())} == {10, 11}


def vars_of(sampler: object) -> dict[str, object]:
    return {name: value for name, value in vars(sampler).items() if name != "evaluations"}


def test_the_sampler_study_runs_from_the_command_line(command, tiny, tmp_path: Path) -> None:
    status, out, err = command("train", [*tiny, "trainer.max_steps=2", "hydra.run.dir=run"])
    assert status == 0, out + err
    common = ["ckpt=run/checkpoints/last.ckpt", "features=lite0", "n=4", "split=val", "device=cpu", "nfe=[3,6]"]
    status, out, err = command("study", ["sampler", *common, "samplers=[ddim,heun]", "hydra.run.dir=study"])
    assert status == 0, out + err
    assert re.search(r"4 settings × 4 samples, 17 network evaluations per image: about .* on cpu", out)
    rows = list(csv.DictReader((tmp_path / "study/study.csv").open()))
    assert [(row["sampler"], row["steps"], row["nfe"]) for row in rows] == [
        ("ddim", "3", "3"), ("ddim", "6", "6"), ("heun", "2", "3"), ("heun", "3", "5"), ("floor", "", ""),
    ]  # fmt: skip
    scores = read_scores(tmp_path / "study")
    samples = [score for score in scores if score.what == "samples"]
    assert {score.source["seed"] for score in samples} == {0}
    assert {score.source["nfe"] for score in samples} == {3, 5, 6}
    assert {score.n for score in scores} == {4}
    (floor,) = [score for score in scores if (score.what, score.metric) == ("floor", "fd_lite0")]
    assert f"floor ({floor.n} real images against others): fd_lite0 {value_text(floor)}\n" in out
    assert f"| floor | — | — | — | {value_text(floor)} |" in (tmp_path / "study/study.md").read_text()
    assert (tmp_path / "study/pareto.png").is_file()
    status, out, err = command("study", ["sampler", *common, "samplers=[dim]"])
    assert status == 2
    assert "sampler=dim: unknown choice" in err
    names = "expected all or a list of at least 1, each text; samplers=[ddim,dpm_2m,unipc,heun] is the default"
    budgets = "expected a list of at least 1, each a whole number of at least 1; nfe=[10,20,50] is the default"
    for override, expected in {
        "samplers=ddim": names,
        "samplers=[3]": names,
        "samplers=[]": names,
        "nfe=10": budgets,
        "nfe=[0]": budgets,
        "nfe=[]": budgets,
    }.items():
        assert command("study", ["sampler", *common, override])[::2] == (2, f"error: {override}: {expected}\n")
    for word in ("samplr", "ckpt=x"):
        status, out, err = command("study", [word])
        assert (status, err.count("\n")) == (2, 1)
        assert f"error: {word}" in err


def test_a_study_on_the_test_split_gives_a_warning_and_counts_every_setting(command, tiny, tmp_path: Path) -> None:
    status, out, err = command("train", [*tiny, "trainer.max_steps=1", "hydra.run.dir=run"])
    assert status == 0, out + err
    words = ["sampler", "ckpt=run/checkpoints/last.ckpt", "features=lite0", "n=4", "device=cpu", "samplers=[ddim]"]
    status, out, err = command("study", [*words, "nfe=[2]", "split=val", "hydra.run.dir=val"])
    assert status == 0, out + err
    assert "warning: choosing" not in out
    assert not (tmp_path / "run/test.json").exists()
    status, out, err = command("study", [*words, "nfe=[2,3]", "split=test", "hydra.run.dir=test"])
    assert status == 0, out + err
    assert "warning: choosing among 2 settings by the test split makes the chosen one's score too good" in out
    assert "unbiased" not in out
    entries = json.loads((tmp_path / "run/test.json").read_text())
    assert [(entry["test_evaluation"], entry["sampler"]["steps"]) for entry in entries] == [(1, 2), (2, 3)]
    scores = [s for s in read_scores(tmp_path / "test") if (s.metric, s.what) == ("fd_lite0", "samples")]
    assert [score.source["test_evaluation"] for score in scores] == [1, 2]
    status, out, err = command("study", [*words, "nfe=[2]", "split=test", "hydra.run.dir=again"])
    assert (status, "2 times so far; only the first of several test scores is unbiased" in out) == (0, True)


def test_the_cost_of_an_evaluation_is_printed_first(
    command, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))  # the reference's features are not cached yet
    run = ["trainer.max_steps=1", "score.n=8", "score.baselines=[untrained]", "features=lite0", "hydra.run.dir=r"]
    status, out, err = command("train", [*tiny, *run])
    assert status == 0, out + err
    assert re.search(r"8 samples × 4 network evaluations, and 8 of an untrained network: about .* on cpu", out)
    overrides = ["ckpt=r/checkpoints/last.ckpt", "features=lite0", "n=6", "sampler=heun", "sampler.steps=3"]
    status, out, err = command("evaluate", [*overrides, "baselines=[]", "device=cpu", "split=train"])
    assert status == 0, out + err
    cost = re.search(r"6 samples × 5 network evaluations: about .* on cpu", out)
    assert cost is not None
    assert cost.start() < out.index("features of the reference")  # of a split other than that of the training


def test_an_interrupted_study_measures_only_what_is_missing(command, two_steps, tmp_path, monkeypatch) -> None:
    """Its files are those of an uninterrupted study, up to seconds. Another protocol or seed is measured again."""

    class Killed(BaseException):
        pass

    drawn, draw = [], Team.draw

    def counted(self: Team, drawing: Drawing, *rest: Any) -> Any:
        if len(drawn) == stop:
            raise Killed
        drawn.append(drawing.sampler.steps)
        return draw(self, drawing, *rest)

    def study(folder: str, *more: str) -> tuple[list[int], str]:
        """The steps that were drawn, and the output."""
        del drawn[:]
        words = [f"ckpt={two_steps}", "features=lite0", "device=cpu", "samplers=[ddim]", "nfe=[2,3,4]", "n=6", *more]
        status, out, err = command("study", ["sampler", *words, f"hydra.run.dir={folder}"])
        assert status == 0, out + err
        return list(drawn), out

    def files(folder: str) -> list[Any]:
        """What a study wrote, without seconds."""
        with (tmp_path / folder / "study.csv").open() as table:
            rows = [{**row, "seconds_per_image": ""} for row in csv.DictReader(table)]
        pictures = {file.name: file.read_bytes() for file in sorted((tmp_path / folder / "samples").iterdir())}
        return [rows, pictures, [score.identity for score in read_scores(tmp_path / folder)]]

    monkeypatch.setattr(Team, "draw", counted)
    stop = None
    study("whole")
    stop = 2
    with pytest.raises(Killed):
        study("parts")
    stop = None
    seconds = [score.source.get("seconds_per_image") for score in read_scores(tmp_path / "parts")]
    steps, out = study("parts")
    assert steps == [4]
    assert f"measured before, and not drawn again: 2 of 3 settings ({tmp_path}/parts/scores.json)\n" in out
    assert "1 setting × 6 samples, 4 network evaluations per image" in out
    assert files("parts") == files("whole")
    assert [score.source.get("seconds_per_image") for score in read_scores(tmp_path / "parts")][
        : len(seconds)
    ] == seconds
    assert study("parts")[0] == []
    assert files("parts") == files("whole")
    for change in ("n=8", "seed=1", "metrics.kernel.subset_size=3", "split=train", "precision=bf16-mixed"):
        assert study("parts", change)[0] == [2, 3, 4], change
    (tmp_path / "parts/scores.json").write_text("[")
    assert study("parts")[0] == [2, 3, 4]
    next((tmp_path / "parts/samples").iterdir()).unlink()
    assert len(study("parts")[0]) == 1
