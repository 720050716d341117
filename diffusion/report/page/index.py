"""The page data for a list of the runs, sweeps and studies below a folder."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffusion.console import duration
from diffusion.errors import UserError
from diffusion.report.lines import line
from diffusion.report.page import pictures
from diffusion.runs.folder import Run, command_of, jobs_of, natural_order, runs_below

IMAGES = 4


def index_page(
    folder: Path, link: Callable[[Path], str | None], entry: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """The page data: every folder of a command below `folder`, newest first, and the sweeps.

    Args:
        link: folder -> the URL of its page, or None if it has no page.
        entry: folder -> the result of `entry_of`, which a server can cache.
    """
    found = list(runs_below(folder))
    entries = [{**entry(path), "link": link(path)} for path in found]
    sweeps = dict.fromkeys(path.parent for path in found if (path.parent / "multirun.yaml").is_file())
    return {
        "kind": "index",
        "title": f"Runs in {folder.resolve().name}",
        "runs": sorted(entries, key=lambda each: -each["written"]),
        "sweeps": [
            {"name": relative(path, folder), "link": link(path), "runs": len(jobs_of(path))}
            for path in sorted(sweeps, key=natural_order)
        ],
    }


def entry_of(path: Path, root: Path) -> dict[str, Any]:
    """The list entry for the folder of a command."""
    found = line(path, root)
    return {
        **asdict(found),
        "name": relative(path, root),
        "command": command_of(path),
        "left": None if found.seconds_left is None else duration(found.seconds_left),
        "picture": thumbnail(path),
    }


def thumbnail(path: Path) -> dict[str, Any] | None:
    """The first few of the latest samples; None if there are none or they cannot be read."""
    try:
        return pictures.latest(Run(path), IMAGES)
    except UserError:
        return None


def relative(path: Path, root: Path) -> str:
    """The path relative to `root`; for `root` itself, its name."""
    inside = str(path.relative_to(root))
    return path.resolve().name if inside == "." else inside
