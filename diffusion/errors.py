"""Errors that a user can cause and mend; every module may import this one, and it imports nothing."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can mend: one line saying what was found, where, what was expected and how to mend it.

    Commands print it as `error: <line>` and exit with status 2, without a traceback.
    """


def nearest(word: str, choices: Iterable[str]) -> str:
    """` (did you mean a, b?)` with the choices closest to `word`, or `` when none is close."""
    close = get_close_matches(word, list(choices), n=3, cutoff=0.5)
    return f" (did you mean {', '.join(close)}?)" if close else ""
