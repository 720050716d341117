"""The files of a folder of images."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

WRITTEN = {"run.json", ".hydra"}  # in the folders that commands write


def below(folder: Path, skip: Callable[[str, str], None]) -> Iterator[os.DirEntry[str]]:
    """Every entry below `folder` that is neither hidden nor a folder, unless it is a link to one.

    What a command has written is left out: a model must not be trained on its own samples.
    """
    top = os.fspath(folder)
    folders = [top]
    while folders:
        here = folders.pop()
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            skip(here, f"can't be read: {error.strerror}")
            continue
        if here != top and not WRITTEN.isdisjoint(entry.name for entry in entries):
            skip(here, "written by a command of diffusion")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                skip(entry.path, "hidden")
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                yield entry
