"""Each planted fault has its place in the program, and tests that are there: `make mutations` would find out late."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PARTS = sorted(file.stem for file in (TESTS / "faults").glob("*.py") if file.stem != "fault")


@pytest.mark.parametrize("part", PARTS)
def test_faults_have_their_places_and_tests(part, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(TESTS), *sys.path])
    for fault in import_module(f"faults.{part}").FAULTS:
        program = (TESTS.parent / "diffusion" / fault.file).read_text("utf-8")
        assert program.count(fault.sound) == 1, fault.what
        file, _, name = fault.tests.partition("::")
        where = TESTS / file
        assert where.exists(), fault.what
        assert not name or f"def {name.partition('[')[0]}(" in where.read_text("utf-8"), fault.what
