"""The run folders of the tests of reports."""

from tests.report.conftest import make_output, make_run

__all__ = ["make_output", "make_run"]
