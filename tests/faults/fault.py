"""What a fault is."""

from typing import NamedTuple


class Fault(NamedTuple):
    """In `file` (below diffusion/) the only `sound` becomes `faulty`; `tests` should notice.

    `tests`: a file below tests/, a test in it, or one of its cases (file::test[case]).
    """

    what: str
    file: str
    sound: str
    faulty: str
    tests: str
