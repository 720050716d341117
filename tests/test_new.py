"""`diffusion new` writes parts that work, under any name; docs/extending.md shows the same files."""

import re

import pytest

from diffusion import new
from diffusion.config.build import validated
from diffusion.config.choices import composed, searching
from diffusion.config.schema import Train
from diffusion.files import PACKAGE

KINDS = sorted(folder.name for folder in new.EXAMPLES.iterdir())
PAGE = (PACKAGE.parent / "docs/extending.md").read_text("utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_part_works_under_any_name(folder, capfd):
    assert KINDS == ["data", "metric", "network", "objective", "sampler", "schedule", "weighting"]
    for kind in KINDS:
        assert new.main([kind, f"new_{kind}"]) == 0
        trial, explained, tested = capfd.readouterr().out.splitlines()[-3:]
        words = re.search(r"train --config-dir conf (.*)", trial)[1].split()
        with searching(["conf"]):
            assert f"new_{kind}" in str(validated(Train, composed("train", words)))
        assert re.search(r"--help (.*)", explained)[1] in [file.name for file in (folder / "conf").iterdir()]
        assert (folder / tested.split()[-1]).is_file()
    texts = [file.read_text("utf-8") for file in folder.rglob("*") if file.suffix in (".py", ".yaml")]
    assert len(texts) == 3 * len(KINDS)
    assert not re.findall(r"my_\w+|My[A-Z]\w+", "".join(texts))
    assert pytest.main(["-p", "no:cacheprovider", str(folder)]) == pytest.ExitCode.OK, capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("2d", "expected the name of a Python module"),
        ("cosine", "schedule=cosine is a choice of the project"),
        ("random", "uses random"),
        ("schedule", "or Schedule for something else"),
        ("none", "or None for something else"),
    ],
)
def test_a_name_that_would_not_work_is_refused(name, reason, folder, capfd):
    assert new.main(["schedule", name]) == 2
    assert reason in capfd.readouterr().err
    assert not [*folder.iterdir()]


def test_no_file_is_overwritten(folder, capfd):
    (folder / "parts").mkdir()
    (folder / "parts/test_arc.py").write_text("mine")
    assert new.main(["schedule", "arc", "parts"]) == 2
    assert capfd.readouterr().err.startswith("error: parts/test_arc.py exists")
    assert [file.read_text() for file in (folder / "parts").iterdir()] == ["mine"]
    assert new.main(["schedule", "arc", "parts/other folder"]) == 0
    assert "\n  cd 'parts/other folder'\n" in capfd.readouterr().out


def test_the_documentation_shows_what_is_written():
    for file in new.EXAMPLES.rglob("*"):
        if file.name.startswith("my_") and file.suffix in (".py", ".yaml"):
            assert f"\n{file.read_text('utf-8')}```\n" in PAGE, f"{file}: copy it to docs/extending.md"
