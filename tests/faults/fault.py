"""The definition of a planted fault."""

from typing import NamedTuple


class Fault(NamedTuple):
    """Replaces the only occurrence of `sound` in diffusion/ by `faulty`, which `tests` should detect.

    `tests`: a file below tests/, a test in it, or one of its cases (file::test[case]).
    """

    what: str
    sound: str
    faulty: str
    tests: str
