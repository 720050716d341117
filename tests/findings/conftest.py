"""The run folders of the tests of reports, for those of findings."""

from tests.report.conftest import make_output, make_run

__all__ = ["make_output", "make_run"]
