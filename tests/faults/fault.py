"""What a planted fault is."""

from typing import NamedTuple


class Fault(NamedTuple):
    """The only place of `sound` in diffusion/ becomes `faulty`; `tests` should notice.

    `tests`: a file below tests/, a test in it, or one of its cases (file::test[case]).
    """

    what: str
    sound: str
    faulty: str
    tests: str
