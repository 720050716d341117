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


def test_no_module_imports_itself_by_way_of_others(rooms):
    TopologicalSorter(rooms.imports()).prepare()  # raises CycleError, which names the cycle


def test_rooms_are_in_an_order(rooms):
    TopologicalSorter(rooms.arrows()).prepare()


@pytest.mark.parametrize("room", CORE)
def test_the_core_imports_no_other_room(rooms, room):
    assert rooms.arrows()[room] <= set(rooms.BASE)


def test_what_every_room_may_import_imports_no_room(rooms):
    for module in rooms.BASE:
        assert rooms.arrows()[module] <= set(rooms.BASE), module


@pytest.mark.parametrize("room", WITHOUT)
def test_the_mathematics_needs_no_framework(rooms, room):
    for module, file in rooms.modules().items():
        if rooms.room(module) == room:
            used = {name.partition(".")[0] for name in rooms.imported_names(file)}
            assert not used & WITHOUT[room], f"{module} imports {used & WITHOUT[room]}"


def test_the_picture_is_current(rooms):
    (drawn,) = rooms.PICTURE.findall((rooms.DOCS / "architecture.md").read_text("utf-8"))
    assert drawn == rooms.picture(), "python docs/rooms.py draws it anew"


def test_a_circle_would_be_found(rooms, monkeypatch, tmp_path):
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


def test_the_wheel_carries_configs_results_and_photographs(tmp_path):
    wheels = pytest.importorskip("hatchling.builders.wheel")
    file = next(wheels.WheelBuilder(str(PACKAGE.parent)).build(directory=str(tmp_path), versions=["standard"]))
    names = set(zipfile.ZipFile(file).namelist())
    for path in conf_dir().rglob("*.yaml"):
        assert f"diffusion/conf/{path.relative_to(conf_dir())}" in names
    for path in committed_dir().rglob("*.csv"):
        assert f"diffusion/committed/{path.relative_to(committed_dir())}" in names
    photographs = [name for name in names if name.startswith("diffusion/data/landscapes/photos/")]
    assert len(photographs) == 37
    assert "diffusion/data/landscapes/CREDITS.csv" in names
    assert not any(name.startswith("tests/") for name in names)
