"""The text and the tests of each planted fault exist; `make mutations` would find this out only late."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PARTS = sorted(file.stem for file in (TESTS / "faults").glob("*.py") if file.stem != "fault")


@pytest.mark.parametrize("part", PARTS)
def test_the_source_text_and_test_of_each_fault_exist(part, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(TESTS), *sys.path])
    texts = [file.read_text("utf-8") for file in (TESTS.parent / "diffusion").rglob("*.py")]
    for fault in import_module(f"faults.{part}").FAULTS:
        assert sum(text.count(fault.sound) for text in texts) == 1, fault.what
        file, _, name = fault.tests.partition("::")
        where = TESTS / file
        assert where.exists(), fault.what
        assert not name or f"def {name.partition('[')[0]}(" in where.read_text("utf-8"), fault.what
