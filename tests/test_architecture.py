"""Imports have no cycles and match docs/architecture.md, and the wheel contains everything a run needs."""

import ast
import importlib.util
import re
import shutil
import zipfile
from graphlib import TopologicalSorter
from types import ModuleType

import pytest

from diffusion.base.files import PACKAGE
from diffusion.checkpoint.find import BUNDLED
from diffusion.cli.new import EXAMPLES
from diffusion.config.choices import conf_dir, groups
from diffusion.extras.reproduce import committed

MATHEMATICS = ("process", "model")
CORE = {room: set() for room in (*MATHEMATICS, "metric")} | {
    "kinds": {"process", "metric"},
    "data": {"kinds", "process"},
}
"""Room -> the others that it may import."""
FRAMEWORKS = {"lightning", "hydra", "omegaconf", "pydantic", "wandb", "PIL"}


@pytest.fixture(scope="module")
def rooms() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rooms", PACKAGE.parent / "docs/rooms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_imports_have_no_cycle(rooms):
    for imports in (rooms.imports(), rooms.arrows()):
        TopologicalSorter(imports).prepare()  # raises CycleError, which names the cycle


def test_the_core_imports_little(rooms):
    arrows = rooms.arrows()
    for room in (*CORE, *rooms.BASE):
        assert arrows[room] <= {*rooms.BASE, *CORE.get(room, ())}, room


def test_findings_draw_nothing_and_scores_are_computed_without_a_report(rooms):
    arrows = rooms.arrows()
    assert "report" not in arrows["findings"] | arrows["scoring"]
    names = {name for module, file in rooms.modules().items() if rooms.room(module) == "findings"
             for name in rooms.imported_names(file)}  # fmt: skip
    assert not {"matplotlib", "rich", "jinja2"} & {name.partition(".")[0] for name in names}


def test_the_mathematics_imports_no_framework_also_not_through_another_module(rooms):
    below, imports = {module for module in rooms.modules() if rooms.room(module) in MATHEMATICS}, rooms.imports()
    while more := {each for module in below for each in imports[module]} - below:
        below |= more
    for module in below:
        names = rooms.imported_names(rooms.modules()[module])
        assert not FRAMEWORKS & {name.partition(".")[0] for name in names}, module


def test_errors_of_the_mathematics_have_no_words_of_the_command_line(rooms):
    setting = re.compile(rf"\w=|--\w|\b({'|'.join(groups())})\.\w")
    files = [file for module, file in rooms.modules().items() if rooms.room(module) in MATHEMATICS]
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))):
        words = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
        assert not (isinstance(node, ast.Raise) and setting.search(" ".join(map(str, words)))), words


def test_the_package_diagram_is_up_to_date(rooms):
    (drawn,) = rooms.PICTURE.findall((rooms.DOCS / "architecture.md").read_text("utf-8"))
    assert drawn == rooms.picture(), "python docs/rooms.py draws it anew"


@pytest.mark.slow
def test_the_wheel_made_from_the_source_archive_contains_configs_results_and_photographs(tmp_path):
    sources, wheels = (pytest.importorskip(f"hatchling.builders.{kind}") for kind in ("sdist", "wheel"))
    archive = next(sources.SdistBuilder(str(PACKAGE.parent)).build(directory=str(tmp_path), versions=["standard"]))
    shutil.unpack_archive(archive, tmp_path, filter="data")
    root = archive.removesuffix(".tar.gz")
    file = next(wheels.WheelBuilder(root).build(directory=str(tmp_path), versions=["standard"]))
    names = set(zipfile.ZipFile(file).namelist())
    for path in conf_dir().rglob("*.yaml"):
        assert f"diffusion/conf/{path.relative_to(conf_dir())}" in names
    for path in committed("*"):
        assert f"diffusion/committed/{path.parent.name}/{path.name}" in names
    for path in EXAMPLES.rglob("*my_*"):
        assert f"diffusion/example/{path.relative_to(EXAMPLES)}" in names or path.suffix == ".pyc"
    photographs = [name for name in names if name.startswith("diffusion/data/landscapes/photos/")]
    assert len(photographs) == 37
    tables = {f"diffusion/data/landscapes/{name}.csv" for name in ("CREDITS", "windows")}
    model = [f"diffusion/pretrained/{path.relative_to(BUNDLED)}" for path in BUNDLED.rglob("*.*")]
    assert {*tables, *model, "diffusion/py.typed", "hydra_plugins/diffusion_search.py"} <= names
    assert not any(name.startswith("tests/") for name in names)
