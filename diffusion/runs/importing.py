"""Importing torch and Lightning, by a command that has something to do with them."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Within: the first import of torch, and of what follows, without garbage collection.

    These modules make half a million objects that stay. Looking for garbage among them takes a fifth of the time of
    their import, and later pauses training; so these objects are left out of all collections.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
