"""The benchmarks match the program: they can be imported."""

import importlib

import pytest

from diffusion.base.files import PACKAGE

BENCH = PACKAGE.parent / "bench"


@pytest.mark.parametrize("name", sorted(file.stem for file in BENCH.glob("*.py")))
def test_each_benchmark_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    if name == "network":  # it needs the peers that the extra `bench` installs
        pytest.importorskip("denoising_diffusion_pytorch")
    importlib.import_module(name)
