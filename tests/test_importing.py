"""The garbage collector while torch is imported, and afterwards."""

import contextlib
import gc
import sys

import pytest

from diffusion.runs.importing import importing


def test_what_torch_makes_is_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    before = gc.get_freeze_count()
    with contextlib.suppress(ImportError), importing():  # a failure leaves no process without garbage collection
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_later_imports_freeze_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    before = gc.get_freeze_count()
    with importing():
        assert gc.isenabled()
        made = [[]]
    assert gc.get_freeze_count() <= before
    assert gc.is_tracked(made)
