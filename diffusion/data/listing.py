"""List the files in a folder of images."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

WRITTEN = {"run.json", ".hydra"}  # present in the output folders of commands


def below(folder: Path, skip: Callable[..., None]) -> Iterator[os.DirEntry[str]]:
    """Yield every entry below `folder`, including links to folders, but not folders or hidden entries.

    Output folders of commands are skipped: a model must not be trained on its own samples. `skip` is called with the
    path and the reason for each skipped entry, and with "refused" for a folder that cannot be read.
    """
    top = os.fspath(folder)
    folders = [top]
    while folders:
        here = folders.pop()
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            skip(here, f"can't be read: {error.strerror}", "refused")
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
