"""Figures printed at the end of the tests, as by `figure("kills survived", "200 of 200")`, and faster runs."""

from collections.abc import Callable, Iterator

import pytest

Figure = Callable[[str, object], None]


@pytest.fixture
def figure(record_property: Figure) -> Figure:
    """Record one line of the summary."""
    return lambda what, value: record_property(what, str(value))


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Skip the figures after a run, which take as long as the run, in this process and in its forks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion.training.ending.write_report", lambda *_, **__: None)
        yield
