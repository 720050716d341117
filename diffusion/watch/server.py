"""Serve live pages of the runs in a folder: read-only, on this machine's loopback address."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote, unquote, urlsplit

from diffusion.console import console
from diffusion.errors import UserError, first_line
from diffusion.files import digest
from diffusion.report.blocks import Html, Section
from diffusion.report.compare import compare, gather
from diffusion.report.comparison import comparison_sections
from diffusion.report.index import Entry, entry_of, index_sections, relative
from diffusion.report.page import document
from diffusion.report.run import run_sections, state_of
from diffusion.report.study import is_study, study_of, study_sections, title_of
from diffusion.runs.folder import PARTS, Run, is_run, is_sweep, runs_below
from diffusion.runs.record import RunRecord

T = TypeVar("T")
REFRESH = 3.0  # seconds between the polls of a page
REST = 10.0  # a section that has changed is made again after this many times what it took, so that a run is not slowed
HOSTS = ("127.0.0.1", "localhost")


class Pages:
    """The pages below a folder; a section is made again only when its files have changed."""

    def __init__(self, root: Path):
        self.root = root
        self.held: dict[Any, tuple[str | None, Any, float]] = {}  # key -> version, result, when to make it again
        self.lock = threading.Lock()

    def page(self, address: str) -> tuple[str, str]:
        """The page of the folder itself (""), or of a folder in it, and its version. Raises UserError without one."""
        folder = self.root / address if address else self.root
        runs = set(runs_below(self.root))
        if address and folder not in runs | {path.parent for path in runs if is_sweep(path.parent)} - {self.root}:
            raise UserError(f"{address}: no run, sweep or study here")
        with self.lock:
            title, sections, state = self.made(folder)
        version = digest(title, state, "".join(sections))
        live = {"version": version, "refresh": REFRESH}
        return document(title, sections, state, "/" if address else None, live), version

    def made(self, folder: Path) -> tuple[str, list[Html], str | None]:
        """The title of a page, its sections, and the state of its run."""
        if is_run(folder):
            run = Run(folder)
            if not is_study(run):
                return self.run(run)
            study = study_of(run)
            sections = self.kept(folder, version_of(folder), lambda: made(study_sections(study)))
            return title_of(study), sections, None
        if is_sweep(folder):
            versions = {job: version_of(job.folder) for job in gather([folder])}
            jobs = [self.kept(("job", job.folder), versions[job], partial(Run, job.folder)) for job in versions]
            make = lambda: made(comparison_sections(compare(jobs, mixed=True), folder, self.link))  # noqa: E731
            sections = self.kept(("sweep", folder), digest(*versions.values()), make)
            return f"Sweep {relative(folder, self.root)}", sections, None
        return f"Runs in {folder.resolve().name}", made(index_sections(folder, self.link, self.entry)), None

    def run(self, run: Run) -> tuple[str, list[Html], str | None]:
        """The page of a run; the sections whose files have not changed are kept."""
        state = state_of(run)
        sections = [
            self.kept((run.folder, section.title), f"{state} {version_of(run.folder, section.files)}", section.html)
            for section in run_sections(run)
            if section.title not in ("Files", "Next steps")
        ]
        return f"Run {relative(run.folder, self.root)}", sections, state

    def entry(self, path: Path) -> Entry:
        """A folder in the list of all runs."""
        return self.kept(("entry", path), version_of(path), lambda: entry_of(path, self.root))

    def link(self, folder: Path) -> str:
        """The address of a folder's page."""
        return f"/page/{quote(str(folder.relative_to(self.root)))}"

    def kept(self, key: Any, version: str, make: Callable[[], T]) -> T:
        """The last result of `make`, if it is of this version, or not yet due."""
        before, result, due = self.held.get(key, (None, None, 0.0))
        now = time.monotonic()
        if before is None or (before != version and now >= due):
            result = make()
            self.held[key] = version, result, time.monotonic() + REST * (time.monotonic() - now)
        return result


def made(sections: Iterable[Section]) -> list[Html]:
    """The sections as HTML."""
    return [section.html() for section in sections]


def version_of(folder: Path, names: Iterable[str] = (*PARTS, "samples", "figures")) -> str:
    """A hash that changes whenever one of these files changes, or the state of the run."""
    found = [file.stat() for name in names if (file := folder / name).exists()]
    return digest(*(f"{each.st_mtime_ns} {each.st_size}" for each in found), RunRecord(folder).state)


class Handler(BaseHTTPRequestHandler):
    """Handle GET requests (no others) for the pages of `pages`: `/`, and `/page/ADDRESS`."""

    pages: ClassVar[Pages]
    protocol_version = "HTTP/1.1"
    timeout = 60

    def handle(self) -> None:
        """Serve a connection, which the browser may reset at any time."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Serve a page, if the Host header names this machine: another name may be a stranger's (DNS rebinding)."""
        path = unquote(urlsplit(self.path).path)
        address = path.removeprefix("/page/").removeprefix("/")
        if self.headers.get("Host", "").rpartition(":")[0] not in HOSTS:
            return self.answer(HTTPStatus.FORBIDDEN, "this server has another name")
        if path != "/" and not path.startswith("/page/"):
            return self.answer(HTTPStatus.NOT_FOUND, "there is nothing here")
        try:
            content, version = self.pages.page(address)
        except UserError as error:
            return self.answer(HTTPStatus.NOT_FOUND, str(error))
        except Exception as error:  # files may vanish, or be damaged, while they are read
            where = f"cannot build the page of {address or '/'}: {type(error).__name__}: {first_line(error)}"
            console.print(where, style="yellow", soft_wrap=True)
            return self.answer(HTTPStatus.INTERNAL_SERVER_ERROR, "this page cannot be built now; see the terminal")
        if self.headers.get("If-None-Match") == version:
            return self.answer(HTTPStatus.NOT_MODIFIED, "")
        return self.answer(HTTPStatus.OK, content, "text/html")

    def answer(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing, since each page polls every few seconds."""


def make_server(root: Path, port: int) -> ThreadingHTTPServer:
    """Create a server for the pages below `root`. Raises OSError if it cannot listen."""
    return ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (Handler,), {"pages": Pages(root)}))
