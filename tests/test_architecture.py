"""Dependencies run one way, every configuration can be made, and the wheel carries what a run needs."""

import ast
import zipfile
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import diffusion
from diffusion.config.build import make
from diffusion.config.choices import conf_dir

PACKAGE = Path(diffusion.__file__).parent
LEAVES = {"errors", "randomness", "console", "files"}  # which every module may import
ALLOWED = {
    "process": {"process"},
    "model": {"model"},
    "data": {"data"},
    "metric": {"metric"},
    "report": {"report", "process", "data", "config", "runs", "metric"},
}
FORBIDDEN = {"process": {"lightning", "hydra", "omegaconf"}, "model": {"lightning", "hydra", "omegaconf"}}


def imports(file: Path) -> set[str]:
    """The dotted modules that a file imports, within functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", ALLOWED)
def test_dependencies_run_one_way(room):
    for file in (PACKAGE / room).rglob("*.py"):
        for name in imports(file):
            top, _, rest = name.partition(".")
            if top == "diffusion":
                assert rest.partition(".")[0] in ALLOWED[room] | LEAVES, f"{file.name} imports {name}"
            assert top not in FORBIDDEN.get(room, ()), f"{file.name} imports {name}"


GROUPS = ("schedule", "prediction", "objective", "optimizer", "lr_scheduler", "ema", "trainer", "sampler", "experiment")
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((conf_dir() / group).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_can_be_made(group, choice):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [f"{group}={choice}", "name=test"])
    OmegaConf.to_yaml(cfg, resolve=True)
    for made in GROUPS:
        if made != "experiment" and cfg.get(made):
            assert make(cfg[made], made) is not None


@pytest.mark.parametrize("path", sorted(conf_dir().rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_yaml_says_what_it_is(path):
    assert path.read_text().startswith("#")


def test_the_wheel_carries_configs_and_photographs(tmp_path):
    wheels = pytest.importorskip("hatchling.builders.wheel")
    file = next(wheels.WheelBuilder(str(PACKAGE.parent)).build(directory=str(tmp_path), versions=["standard"]))
    names = set(zipfile.ZipFile(file).namelist())
    for path in conf_dir().rglob("*.yaml"):
        assert f"diffusion/conf/{path.relative_to(conf_dir())}" in names
    photographs = [name for name in names if name.startswith("diffusion/data/landscapes/photos/")]
    assert len(photographs) == 37
    assert "diffusion/data/landscapes/CREDITS.csv" in names
    assert not any(name.startswith("tests/") for name in names)
