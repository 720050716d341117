"""Figures of the proofs, printed at the end: `figure("kills survived", "200 of 200")`; and runs that are quick."""

from collections.abc import Callable, Iterator

import pytest

Figure = Callable[[str, object], None]


@pytest.fixture
def figure(record_property: Figure) -> Figure:
    """Note one line of the summary."""
    return lambda what, value: record_property(what, str(value))


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """In this process and in those forked from it: no figures are drawn after a run, which takes as long as the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion.training.run.write_report", lambda *_, **__: None)
        yield
