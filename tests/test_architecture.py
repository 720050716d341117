"""Imports have no cycles and match docs/architecture.md, and the wheel contains everything a run needs."""

import importlib.util
import zipfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from types import ModuleType

import pytest

from diffusion.config.choices import conf_dir
from diffusion.files import PACKAGE
from diffusion.reproduce.committed import committed_dir

CORE = ("process", "model", "data", "metric")  # rooms that import no other room
WITHOUT = {
    "process": {"lightning", "hydra", "omegaconf", "pydantic", "wandb"},
    "model": {"lightning", "hydra", "omegaconf", "pydantic", "wandb"},
}


@pytest.fixture(scope="module")
def rooms() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rooms", PACKAGE.parent / "docs/rooms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_modules_have_no_import_cycle(rooms):
    TopologicalSorter(rooms.imports()).prepare()  # raises CycleError, which names the cycle


def test_packages_have_no_import_cycle(rooms):
    TopologicalSorter(rooms.arrows()).prepare()


@pytest.mark.parametrize("room", CORE)
def test_core_packages_import_no_other_package(rooms, room):
    assert rooms.arrows()[room] <= set(rooms.BASE)


def test_shared_modules_import_no_package(rooms):
    for module in rooms.BASE:
        assert rooms.arrows()[module] <= set(rooms.BASE), module


@pytest.mark.parametrize("room", WITHOUT)
def test_process_and_model_import_no_framework(rooms, room):
    for module, file in rooms.modules().items():
        if rooms.room(module) == room:
            used = {name.partition(".")[0] for name in rooms.imported_names(file)}
            assert not used & WITHOUT[room], f"{module} imports {used & WITHOUT[room]}"


def test_the_package_diagram_is_up_to_date(rooms):
    (drawn,) = rooms.PICTURE.findall((rooms.DOCS / "architecture.md").read_text("utf-8"))
    assert drawn == rooms.picture(), "python docs/rooms.py draws it anew"


def test_an_import_cycle_is_detected(rooms, monkeypatch, tmp_path):
    def planted() -> Iterator[tuple[str, str]]:
        yield "a", "def f():\n    from diffusion.b import x\n"
        yield "b", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import diffusion.c.d\n"
        yield "c/d", "import diffusion.a\n"

    package = tmp_path / "diffusion"
    for name, text in planted():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(rooms, "PACKAGE", package)
    with pytest.raises(ValueError, match="cycle"):
        TopologicalSorter(rooms.imports()).prepare()


def test_the_wheel_contains_configs_results_and_photographs(tmp_path):
    wheels = pytest.importorskip("hatchling.builders.wheel")
    file = next(wheels.WheelBuilder(str(PACKAGE.parent)).build(directory=str(tmp_path), versions=["standard"]))
    names = set(zipfile.ZipFile(file).namelist())
    for path in conf_dir().rglob("*.yaml"):
        assert f"diffusion/conf/{path.relative_to(conf_dir())}" in names
    for path in committed_dir().rglob("*.csv"):
        assert f"diffusion/committed/{path.relative_to(committed_dir())}" in names
    photographs = [name for name in names if name.startswith("diffusion/data/landscapes/photos/")]
    assert len(photographs) == 37
    assert {"diffusion/data/landscapes/CREDITS.csv", "diffusion/py.typed"} <= names
    assert not any(name.startswith("tests/") for name in names)
