"""Figures of the proofs, printed at the end: `figure("kills survived", "200 of 200")`."""

from collections.abc import Callable

import pytest

FIGURES = pytest.StashKey[dict[str, str]]()
Figure = Callable[[str, object], None]


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Note one line of the summary."""
    noted = request.config.stash.setdefault(FIGURES, {})
    return lambda what, value: noted.update({what: str(value)})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was survived, in numbers."""
    noted = config.stash.get(FIGURES, {})
    if noted:
        terminalreporter.section("reliability")
        for what, value in noted.items():
            terminalreporter.write_line(f"{what}: {value}")
