"""compile=auto: a network is compiled if a trial shows that it pays off, and nothing else in the run changes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composing import settings, train
from outcomes import lines, same, state
from torch import Tensor

import diffusion
from diffusion.checkpoint import storage
from diffusion.model import UNet
from diffusion.training import compilation

FORWARD = UNet.forward
SLOW = 0.2  # seconds of an evaluation by the clock of these tests


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A compiler that makes networks faster or slower, or fails; and a training that is worth a trial."""
    there = SimpleNamespace(eager=SLOW, compiled=0.0, first=0.0, error=None, networks=[], now=0.0)

    def compile_(self: UNet) -> None:
        there.networks.append(self)
        self.calls = 0

    def forward(self: UNet, *args: Any, **kwargs: Any) -> Tensor:
        if not self.training:
            return FORWARD(self, *args, **kwargs)
        calls = getattr(self, "calls", None)
        if calls == 0 and there.error is not None:
            raise there.error
        there.now += there.eager if calls is None else there.compiled + there.first * (calls == 0)
        if calls is not None:
            self.calls += 1
        return FORWARD(self, *args, **kwargs)

    monkeypatch.setattr(UNet, "compile", compile_)
    monkeypatch.setattr(UNet, "forward", forward)
    monkeypatch.setattr(compilation, "LEAST", 0.0)
    monkeypatch.setattr(compilation, "time", SimpleNamespace(perf_counter=lambda: there.now))
    return there


def said(folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The run's line about compilation, after a check that its record says the same."""
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "compiled (" in line]
    assert json.loads((folder / "run.json").read_text())["compiled"] == ("not compiled" not in line)
    return line


def test_auto_compiles_if_that_saves_time_and_resuming_keeps_the_decision(tiny, tmp_path, compiler, capfd) -> None:
    common = [*tiny, "model.dropout=0.2", "samples.n=0"]
    train(common, tmp_path / "plain")
    capfd.readouterr()
    train([*common, "compile=auto", "trainer.max_steps=6"], tmp_path / "auto")
    line = said(tmp_path / "auto", capfd)
    assert line.startswith("compile=auto: compiled (a step takes 0.")
    assert " of the time, which saves " in line
    assert len(compiler.networks) == 2  # the trial's and the run's
    compiler.compiled = 2 * SLOW  # a resumed run makes no trial
    train([*common, "compile=auto", "ckpt=auto"], tmp_path / "auto")
    assert said(tmp_path / "auto", capfd) == "compile=auto: compiled (as before)"
    assert len(compiler.networks) == 3
    assert same(state(tmp_path / "auto"), state(tmp_path / "plain"))
    assert lines(tmp_path / "auto") == lines(tmp_path / "plain")


def test_true_compiles_the_network_without_a_trial(tiny, tmp_path, compiler) -> None:
    for setting, networks in (("false", 0), ("true", 1)):
        train([*tiny, f"compile={setting}", "samples.n=0", "trainer.max_steps=2"], tmp_path / setting)
        assert len(compiler.networks) == networks
    assert same(state(tmp_path / "true"), state(tmp_path / "false"))


@pytest.mark.slow
def test_a_compiled_run_resumes_and_loads_like_any_other(tiny, tmp_path) -> None:
    """With torch's compiler. The weights differ from those without it by less than a thousandth of a step."""
    rate = 1e-3  # about what one step of AdamW changes a weight by
    words = [
        *tiny,
        "ema=warm",
        "samples.n=0",
        "trainer.precision=64-true",
        "trainer.max_steps=4",
        f"optimizer.lr={rate}",
    ]
    train([*words, "compile=true", "trainer.max_steps=2"], tmp_path / "run")
    train([*words, "compile=true", "ckpt=auto"], tmp_path / "run")
    train(words, tmp_path / "plain")
    assert diffusion.load(tmp_path / "run", device="cpu").restored.step == 4
    weights, expected = (
        storage.load(tmp_path / f"{name}/checkpoints/last.ckpt")["state_dict"] for name in ("run", "plain")
    )
    assert weights.keys() == expected.keys()
    assert max(float((weights[name] - expected[name]).abs().max()) for name in weights) < rate / 1000


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"compiled": 2 * SLOW}, "of the time, which saves nothing; compiling takes "),
        ({"eager": 0.1, "first": 3.0}, "; compiling takes "),
        ({"error": RuntimeError("no compiler was found\nfor C++")}, "it fails: no compiler was found"),
    ],
)
def test_auto_does_not_compile_if_that_saves_no_time_or_fails(tiny, tmp_path, compiler, capfd, change, why) -> None:
    vars(compiler).update(change)
    train([*tiny, "compile=auto", "samples.n=0"], tmp_path / "run")
    line = said(tmp_path / "run", capfd)
    assert line.startswith("compile=auto: not compiled (")
    assert why in line
    assert len(compiler.networks) == 1  # the trial's


def test_auto_makes_no_trial_for_a_short_training(tiny, tmp_path, compiler, capfd, monkeypatch) -> None:
    monkeypatch.setattr(compilation, "LEAST", 3600.0)
    train([*tiny, "compile=auto", "samples.n=0"], tmp_path / "run")
    assert "not compiled (a training of " in said(tmp_path / "run", capfd)
    assert not compiler.networks


def test_other_processes_follow_the_recorded_decision_of_the_first(tiny, tmp_path) -> None:
    (tmp_path / "run.json").write_text('{"compiled": true}')
    chosen: Any = settings([*tiny, "compile=auto"])
    nothing: Any = None
    assert compilation.is_compiled(chosen, nothing, nothing, nothing, nothing, tmp_path, None)


def test_a_trial_waits_for_the_device_that_it_runs_on(monkeypatch) -> None:
    """Lightning makes it the current device only later."""
    waited: list[Any] = []
    monkeypatch.setattr("torch.cuda.synchronize", waited.append)
    loss = SimpleNamespace(backward=lambda: None)
    compilation.seconds(SimpleNamespace(loss=lambda size: loss, device=torch.device("cuda:1")), 1)
    assert waited == [torch.device("cuda:1")]
