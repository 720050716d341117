"""The benchmarks match the program: they can be imported, their workloads run, and their exponents are right."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest

from diffusion.files import PACKAGE
from diffusion.reproduce.committed import tables_of

BENCH = PACKAGE.parent / "bench"
NAMES = sorted(file.stem for file in BENCH.glob("*.py"))


@pytest.fixture(autouse=True)
def bench_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_can_be_imported(name: str) -> None:
    if name in ("network", "quality"):  # they need the peers that the extra `bench` installs
        pytest.importorskip("denoising_diffusion_pytorch")
    importlib.import_module(name)


@pytest.mark.parametrize(("curve", "size"), [("samples", 100), ("runs", 6), ("validations", 2), ("batch", 2)])
def test_the_workloads_of_a_curve_run(
    curve: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    curves = importlib.import_module("curves")
    monkeypatch.setattr(curves, "forget_peak", lambda: None)
    monkeypatch.setattr(curves.console, "quiet", True)
    for found in curves.CURVES[curve].measure(size, tmp_path):
        assert found.seconds > 0
        assert math.isnan(found.floor) or found.floor > 0


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("fixed", [0.0, 5.0])
def test_the_scaling_exponent_ignores_the_fixed_cost(power: float, fixed: float) -> None:
    scaling = importlib.import_module("scaling")
    sizes = np.array([10, 32, 100, 316, 1000, 3162])
    found = scaling.exponent(sizes, fixed + sizes.astype(float) ** power)
    assert found == pytest.approx(power, abs=0.25)
    assert (found > scaling.MOST) == (power > scaling.MOST)


def test_a_dominant_fixed_cost_leaves_the_exponent_undefined() -> None:
    scaling = importlib.import_module("scaling")
    sizes = np.array([10, 32, 100, 316])
    assert math.isnan(scaling.exponent(sizes, 1000.0 + sizes))
    assert scaling.constant(sizes, 1000.0 + sizes) == pytest.approx(1000)


def test_the_step_of_each_recipe_of_a_study_is_timed() -> None:
    recipes = importlib.import_module("recipes")
    found = recipes.recipes("architecture")
    assert len(found) == len(tables_of("architecture")["train"].numbers)
    two = dict(list(found.items())[:2])
    assert [settings.trainer.max_steps for settings in two.values()] == [2000, 2090]
    for seconds in recipes.times(two, rounds=2).values():
        assert len(seconds) == 2
        assert min(seconds) > 0
