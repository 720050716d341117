"""Serve live pages of the runs in a folder: an index of all runs, and the page of each run, sweep and study.

Nothing is written. Only this machine can open them; from another one, forward the port:
`ssh -L 8300:localhost:8300 HOST`. Press Ctrl-C to stop.

  python -m diffusion.watch                 the runs in outputs, at http://127.0.0.1:8300
  python -m diffusion.watch outputs/demo/…  one run, or one sweep
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlsplit

from diffusion.console import console
from diffusion.errors import Arguments, UserError, first_line
from diffusion.files import digest
from diffusion.report.compare import compare, gather
from diffusion.report.comparison import comparison_sections
from diffusion.report.index import index_sections
from diffusion.report.page import Section, document
from diffusion.report.run import run_sections
from diffusion.report.study import is_study, study_of, study_sections
from diffusion.runs.folder import PARTS, Run, is_run, is_sweep, runs_below
from diffusion.runs.record import RunRecord

REFRESH = 3.0  # seconds between the polls of a page
REST = 10.0  # a page that has changed is made again after this many times what it took, so that a run is not slowed
HOSTS = ("127.0.0.1", "localhost")


def main(arguments: list[str] | None = None) -> int:
    """Serve a folder until interrupted. Returns the exit status: 0, or 2 with one line on stderr."""
    parser = Arguments("watch", __doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--port", type=int, default=8300, help="default: 8300; 0: any free port")
    return parser.run(watch, arguments)


def watch(folder: Path, port: int) -> None:
    """Serve the pages of the runs in `folder`. Raises UserError if the folder or the port is unusable."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; choose a folder with runs, such as outputs")
    with make_server(folder, port) as server:
        console.print(f"watching {folder}: http://127.0.0.1:{server.server_address[1]}/", soft_wrap=True)
        console.print("press Ctrl-C to stop")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


class Pages:
    """The pages below a folder; each is made again only when files of its runs have changed."""

    def __init__(self, root: Path):
        self.root = root
        self.held: dict[Path, tuple[str, str, float]] = {}  # folder -> version, page, when to make it again
        self.lock = threading.Lock()

    def page(self, address: str) -> tuple[str, str]:
        """The page of the folder itself (""), or of a folder in it, and its version. Raises UserError without one."""
        folder, runs = self.root / address if address else self.root, set(runs_below(self.root))
        if address and folder not in runs | {path.parent for path in runs if is_sweep(path.parent)} - {self.root}:
            raise UserError(f"{address}: no run, sweep or study here")
        version = digest(*map(version_of, runs_below(folder)))
        with self.lock:
            before, page, due = self.held.get(folder, ("", "", 0.0))
            began = time.monotonic()
            if before == version or began < due:
                return page, before
            title, sections, state = self.contents(folder)
            live = {"version": version, "refresh": REFRESH}
            page = document(title, sections, state, "/" if address else None, live)
            self.held[folder] = version, page, time.monotonic() + REST * (time.monotonic() - began)
        return page, version

    def contents(self, folder: Path) -> tuple[str, Iterable[Section], str | None]:
        """The title of a page, its sections, and the state of its run."""
        name = folder.resolve().name if folder == self.root else folder.relative_to(self.root)
        if is_run(folder):
            run = Run(folder)
            if is_study(run):
                study = study_of(run)
                return study.title, study_sections(study), None
            return f"Run {name}", run_sections(run), run.state
        if is_sweep(folder):
            comparison = compare(gather([folder]), mixed=True)
            return f"Sweep {name}", comparison_sections(comparison, folder, self.link), None
        return f"Runs in {name}", index_sections(folder, self.link), None

    def link(self, folder: Path) -> str:
        """The address of a folder's page."""
        return f"/page/{quote(str(folder.relative_to(self.root)))}"


def version_of(run: Path) -> str:
    """A hash that changes whenever one of the files of a run changes, or its state."""
    found = [file.stat() for name in (*PARTS, "samples", "figures") if (file := run / name).exists()]
    return digest(*(f"{each.st_mtime_ns} {each.st_size}" for each in found), RunRecord(run).state)


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
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing, since each page polls every few seconds."""


def make_server(root: Path, port: int) -> ThreadingHTTPServer:
    """Create a server for the pages below `root`. Raises UserError if it cannot listen."""
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (Handler,), {"pages": Pages(root)}))
    except (OSError, OverflowError) as error:
        raise UserError(f"--port {port}: {first_line(error)}; choose another one") from error


if __name__ == "__main__":
    sys.exit(main())
