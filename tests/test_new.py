"""`diffusion new` writes parts that work, under any name; docs/extending.md shows the same files."""

import re

import pytest

from diffusion.base.files import PACKAGE
from diffusion.cli import new
from diffusion.config.build import validated
from diffusion.config.choices import composed, searching
from diffusion.config.schema import Train

KINDS = ["condition", "data", "encoder", "kind", "metric", "network", "objective", "sampler", "schedule", "weighting"]


def test_every_part_works_under_any_name(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert sorted(folder.name for folder in new.EXAMPLES.iterdir()) == KINDS
    for kind in KINDS:
        assert new.main([kind, f"new_{kind}"]) == 0
        trial, explained, tested = capfd.readouterr().out.splitlines()[-3:]
        with searching(["conf"]):
            words = trial.partition("--config-dir conf ")[2].split()
            assert f"new_{kind}" in str(validated(Train, composed("train", words)))
        assert (tmp_path / "conf" / explained.split()[-1]).is_dir()
        assert (tmp_path / tested.split()[3]).is_file()
    texts = [file.read_text("utf-8") for file in tmp_path.rglob("*") if file.suffix in (".py", ".yaml")]
    assert not re.findall(r"my_\w+|My[A-Z]\w+", "".join(texts))
    assert pytest.main(["-p", "no:cacheprovider", str(tmp_path)]) == pytest.ExitCode.OK, capfd.readouterr().out


def test_a_name_that_would_not_work_is_refused_and_no_file_overwritten(tmp_path, capfd):
    (tmp_path / "test_arc.py").write_text("mine")
    for name, reason in {
        "2d": "expected the name of a Python module", "cosine": "schedule=cosine is a choice of the project",
        "random": "uses random", "schedule": "or Schedule for something else", "none": "or None for something else",
        "arc": "test_arc.py exists",
    }.items():  # fmt: skip
        assert new.main(["schedule", name, str(tmp_path)]) == 2
        assert reason in capfd.readouterr().err
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


def test_the_documentation_shows_what_is_written():
    page = (PACKAGE.parent / "docs/extending.md").read_text("utf-8")
    for folder in new.EXAMPLES.iterdir():
        shown = f"\nmy_{folder.name}.py\n" in page
        assert shown or f"(example/{folder.name}/my_{folder.name}.py)" in page
        for file in (file for file in folder.rglob("my_*") if shown and file.suffix in (".py", ".yaml")):
            assert f"\n{file.read_text('utf-8')}```\n" in page, f"{file}: copy it to docs/extending.md"
