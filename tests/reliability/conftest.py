"""Figures of the proofs, printed at the end: `figure("kills survived", "200 of 200")`; and runs that are quick."""

from collections.abc import Callable, Iterator

import pytest
import torch

FIGURES = pytest.StashKey[dict[str, str]]()
Figure = Callable[[str, object], None]


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Note one line of the summary."""
    noted = request.config.stash.setdefault(FIGURES, {})
    return lambda what, value: noted.update({what: str(value)})


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """In this process and in those forked from it: no figures are drawn after a run, which takes as long as the run.

    And one thread: more only get in each other's way with networks of this size, and a fork that inherits a pool of
    them waits forever. For the module, so that it holds for the runs of the module's fixtures too.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion.training.run.write_report", lambda *_: None)
        yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was survived, in numbers."""
    noted = config.stash.get(FIGURES, {})
    if noted:
        terminalreporter.section("reliability")
        for what, value in noted.items():
            terminalreporter.write_line(f"{what}: {value}")
