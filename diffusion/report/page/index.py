"""The page data for a list of the runs, sweeps, evaluations and studies below a folder."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffusion.console import duration
from diffusion.errors import UserError
from diffusion.report.compare import comparable
from diffusion.report.lines import line
from diffusion.report.page import pictures
from diffusion.runs.folder import Run, command_of, is_sweep, natural_order, runs_below

IMAGES, SIDE = 4, 64  # of a thumbnail; the largest side of its images in pixels


def index_page(
    folder: Path, link: Callable[[Path], str | None], entry: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """The page data: training runs, and folders with scores of other commands, newest first; and their sweeps.

    The folders of other commands without scores, such as samples, are only counted.

    Args:
        link: folder -> the URL of its page, or None if it has no page.
        entry: folder -> the result of `entry_of`, which a server can cache.
    """
    found = {path: {**entry(path), "link": link(path)} for path in runs_below(folder)}
    trained = {path for path, each in found.items() if each["command"] == "train"}
    scored = {path for path, each in found.items() if each["metric"]} - trained
    others = Counter(each["command"] for path, each in found.items() if path not in trained | scored)
    sweeps = {path.parent for path in trained | scored if is_sweep(path.parent)}

    def newest_first(paths: set[Path]) -> list[dict[str, Any]]:
        return sorted((each for path, each in found.items() if path in paths), key=lambda each: -each["written"])

    return {
        "kind": "index",
        "title": f"Runs in {folder.resolve().name}",
        "runs": newest_first(trained),
        "scored": newest_first(scored),
        "others": [[command, count] for command, count in others.items()],
        "sweeps": [
            {"name": relative(path, folder), "link": link(path), "runs": len(comparable(path))}
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
    """The first few of the latest samples, made smaller; None if there are none or they cannot be read."""
    try:
        return pictures.latest(Run(path), IMAGES, SIDE)
    except UserError:
        return None


def relative(path: Path, root: Path) -> str:
    """The path relative to `root`; for `root` itself, its name."""
    inside = str(path.relative_to(root))
    return path.resolve().name if inside == "." else inside
