"""The utilization of a device: the operations of training per second, and the device's measured peak."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from composing import settings
from torch.utils.flop_counter import FlopCounterMode

from diffusion.config.build import make
from diffusion.console import duration
from diffusion.training import forecast, utilization
from diffusion.training.spent import Spent

LASTING = ("samples.n=0", "trainer.max_epochs=-1")
ACCUMULATED = ("data.batch_size=2", "trainer.accumulate_grad_batches=8")


@pytest.fixture
def known(monkeypatch):
    """A peak of 1 GFLOP/s; 20 batches take 5 s; every training counts as long."""
    monkeypatch.setattr(utilization, "peak_flops", lambda device, dtype: 1e9)
    clock = itertools.count(0, 5)
    monkeypatch.setattr(forecast.Forecast, "_now", lambda self, module: next(clock))
    monkeypatch.setattr(forecast, "LONG", 0.0)


@pytest.mark.parametrize("words", [(), ACCUMULATED, ("trainer.precision=bf16-mixed",)])
def test_the_utilization_is_printed_recorded_and_reported(command, tiny, tmp_path, known, words):
    steps = 32 // 8 if words == ACCUMULATED else 32
    status, out, err = command("train", [*tiny, *LASTING, f"trainer.max_steps={steps}", "hydra.run.dir=run", *words])
    assert status == 0, out + err
    found = json.loads((tmp_path / "run/run.json").read_text())["utilization"]
    asked = settings([*tiny, *words])
    side = asked.data["resolution"]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        make(asked.model, "model")(torch.zeros(1, 3, side, side), torch.zeros(1))
    images = 2 * 20 if words == ACCUMULATED else 4 * 20
    assert found["tflops"] == pytest.approx(3 * counter.get_total_flops() * images / 5 / 1e12)
    precision = "bfloat16" if "trainer.precision=bf16-mixed" in words else "float32"
    text = f"{found['tflops']:.3g} TFLOP/s per device, {found['tflops'] / 1e-3:.0%} of its measured peak in {precision}"
    assert text in out
    left = f"1 step left: about {duration(2)}" if words == ACCUMULATED else f"7 steps left: about {duration(1.75)}"
    assert f"{left} of training (measured)" in out
    assert text in (tmp_path / "run/README.md").read_text()


def test_validation_and_pictures_are_not_timed_as_training(monkeypatch):
    spent = Spent()
    spent.seconds = {"data": 1.0, "optimizer": 2.0, "validation": 10.0, "pictures": 20.0, "scores": 30.0}
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: 100.0)
    module = SimpleNamespace(device=torch.device("cpu"))
    assert forecast.Forecast(None, None, None, spent)._now(module) == 40.0  # type: ignore[arg-type]


def test_short_trainings_are_not_measured(command, tiny, tmp_path, known, monkeypatch):
    monkeypatch.setattr(forecast, "LONG", 60.0)
    status, out, err = command("train", [*tiny, *LASTING, "trainer.max_steps=30", "hydra.run.dir=run"])
    assert status == 0, out + err
    assert "TFLOP/s" not in out
    assert "utilization" not in json.loads((tmp_path / "run/run.json").read_text())


def test_a_network_that_cannot_be_counted_gets_one_line(command, tiny, known, monkeypatch):
    monkeypatch.setattr(utilization, "network_table", lambda *_: 1 / 0)
    status, out, err = command("train", [*tiny, *LASTING, "trainer.max_steps=30"])
    assert status == 0, out + err
    assert "the utilization of the device is unknown: division by zero" in out


@pytest.mark.parametrize("seconds", [(1, 2), (2, 1)])
def test_the_peak_is_the_faster_of_a_product_and_a_convolution(monkeypatch, seconds):
    """On a CPU: a product of 1024² matrices, and a 3×3 convolution of 8 images of 32², from 128 to 128 channels."""
    product, convolution = 2 * 1024**3, 2 * 8 * 32**2 * 9 * 128**2
    taken = iter(seconds)
    monkeypatch.setattr(utilization, "seconds_of", lambda work: next(taken))
    expected = product if seconds == (1, 2) else convolution
    assert utilization.peak_flops(torch.device("cpu"), torch.float32) == expected


def test_the_shortest_of_several_calls_counts(monkeypatch):
    times = iter([0.0, 0.0, 0.1, 0.15, 0.2, 0.2, 0.28, 0.3, 0.3, 0.39, 0.4])  # 0.05, 0.08, 0.09 s, and the time is up
    monkeypatch.setattr(utilization.time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(utilization, "SECONDS", 0.22)
    assert utilization.seconds_of(lambda: torch.ones(1, 1)) == pytest.approx(0.05)


def test_waiting_for_a_device_hardly_counts(monkeypatch):
    """A call takes 1 ms; reading its result, 1 ms more."""
    now = [0.0]

    class Result:
        def __getitem__(self, _: object) -> "Result":
            return self

        def sum(self) -> "Result":
            return self

        def item(self) -> None:
            now[0] += 1e-3

    def work() -> Result:
        now[0] += 1e-3
        return Result()

    monkeypatch.setattr(utilization.time, "perf_counter", lambda: now[0])
    assert utilization.seconds_of(work) == pytest.approx(1e-3, rel=0.05)
