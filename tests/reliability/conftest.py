"""Faster runs."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Skip the figures after a run, which take as long as the run, in this process and in its forks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion.training.ending.write_report", lambda *_, **__: None)
        yield
