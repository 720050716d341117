"""A file is replaced in one step: whoever reads it finds the old content or the new, never a half."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Within: a new file beside `path`, which then takes its place; what fails leaves nothing of it, and `path` as was.

    An OSError names `path`. Nothing is forced to the disk: a power cut may cost it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) == str(temporary):
            error.filename = str(path)
        raise


def replace(path: Path, *parts: str | bytes | memoryview) -> None:
    """Make `parts`, texts in UTF-8, the content of `path`."""
    with replacing(path) as file:
        file.writelines(part.encode() if isinstance(part, str) else part for part in parts)
