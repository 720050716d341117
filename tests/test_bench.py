"""The benchmarks, and the scripts that measure for the docs, match the program: they can be imported."""

import importlib

import pytest

from diffusion.base.files import PACKAGE

SCRIPTS = sorted(file for folder in ("bench", "docs") for file in (PACKAGE.parent / folder).glob("*.py"))


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_each_script_can_be_imported(file, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    if file.stem == "network":  # it needs the peers that the extra `bench` installs
        pytest.importorskip("denoising_diffusion_pytorch")
    importlib.import_module(file.stem if file.parent.name == "bench" else f"docs.{file.stem}")
