"""Robust standard output and error: a closed terminal or pipe, or a full disk, never ends a run."""

import contextlib
import errno
import io
import sys
from typing import Any

from diffusion.runs.early_signals import write_line

LOST: list[OSError] = []  # errors that lost output, other than a closed pipe or terminal


class _Dropping(io.FileIO):
    """A file that drops data that cannot be written."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal was closed
                LOST.append(error)
            return len(data)


def keep_going() -> None:
    """From now on, drop output that cannot be written to standard output and error."""
    for number, name in enumerate(("stdout", "stderr"), 1):
        stream = getattr(sys, name)
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)  # with $PYTHONUNBUFFERED there is no buffer
        if type(raw) is io.FileIO and raw.fileno() == number:
            stream.flush()
            file = io.BufferedWriter(_Dropping(raw.fileno(), "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(file, stream.encoding, "backslashreplace", line_buffering=True))


def report_loss() -> None:
    """Warn on standard error if output was lost."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    if LOST:
        write_line(f"warning: output was lost ({LOST[0].strerror})")
