"""Serve live pages of the runs in a folder: an index of all runs, and the page of each run, sweep and study.

Mark runs in the index to see their curves in common charts, their scores in one table, and their pictures side by side.
Nothing is written. Only this machine can open them; from another one, forward the port:
`ssh -L 8300:localhost:8300 HOST`. Press Ctrl-C to stop.

  diffusion watch                 the runs in outputs, at http://127.0.0.1:8300
  diffusion watch outputs/demo/…  one run, or one sweep
"""

import contextlib
import re
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from diffusion.base.console import console
from diffusion.base.files import digest
from diffusion.errors import Arguments, UserError, first_line, refusing
from diffusion.findings.compare import compare
from diffusion.report import comparison, index, page, run, study
from diffusion.runs.folder import PARTS, Run, is_run, is_sweep, runs_below
from diffusion.runs.record import RunRecord

COMPARE = "/compare"
LOCAL = r"(127\.0\.0\.1|localhost)(:\d+)?"  # names of this machine; another may be a stranger's (DNS rebinding)
REFRESH = 3.0  # seconds between the polls of a page
REST = 10.0  # a page that has changed is made again after this many times what it took, so that a run is not slowed


def watch(folder: Path, port: int) -> None:
    """Serve the pages of the runs in `folder`. Raises UserError if the folder or the port is unusable."""
    next(runs_below(folder), None)  # raises without a folder
    with refusing(f"--port {port}", "; choose another one"):
        server = Server(folder, port)
    console.print(f"watching {folder}: http://127.0.0.1:{server.server_port}/ (Ctrl-C to stop)", soft_wrap=True)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


class Server(ThreadingHTTPServer):
    """The pages below a folder; each is made again only when files of its runs have changed."""

    def __init__(self, root: Path, port: int):
        super().__init__(("127.0.0.1", port), Handler)
        self.root = root
        self.held: dict[tuple[Path, ...], tuple[str, str, float]] = {}  # folders -> page, version, when due
        self.locks = defaultdict[tuple[Path, ...], threading.Lock](threading.Lock)  # of each page: others do not wait

    def page(self, path: str, query: str = "") -> tuple[str, str]:
        """The page of a path, and its version: `/` is that of the folder itself, `/compare?run=…&run=…` of some runs.

        Raises UserError without one.
        """
        runs = set(runs_below(self.root))
        sweeps = {each.parent for each in runs if is_sweep(each.parent)} - {self.root}
        folders = {unquote(self.link(each)): each for each in runs | sweeps} | {"/": self.root}
        chosen = parse_qs(query).get("run", []) if path == COMPARE else [path]
        if not chosen or not folders.keys() >= {*chosen}:
            raise UserError(f"{path}: no run, sweep or study here")
        key = tuple(folders[each] for each in chosen)
        version = digest(*(version_of(run) for folder in key for run in runs_below(folder)))
        with self.locks[key]:
            text, before, due = self.held.get(key, ("", "", 0.0))
            began = time.monotonic()
            if before == version or began < due:
                return text, before
            text = self.made(key, version=version, refresh=REFRESH, home="/" if path != "/" else None)
            self.held[key] = text, version, time.monotonic() + REST * (time.monotonic() - began)
        return text, version

    def made(self, folders: Sequence[Path], **live: Any) -> str:
        """The page of a folder, or of several that are compared, as it is now."""
        folder, several = folders[0], len(folders) > 1
        if several or is_sweep(folder):
            found = compare(folders, every=several)
            place = self.root if several else folder
            sections = comparison.comparison_sections(found, place, self.link, by_run=several)
            return page.document(comparison.title_of(found), sections, **live)
        name = folder.resolve().name if folder == self.root else folder.relative_to(self.root)
        if not is_run(folder):
            return page.document(f"Runs in {name}", index.index_sections(folder, self.link, COMPARE), **live)
        if Run(folder).is_study:
            return page.document(f"Study {name}", study.study_sections(Run(folder)), **live)
        return page.document(f"Run {name}", run.run_sections(Run(folder)), Run(folder).state, **live)

    def link(self, folder: Path) -> str:
        return f"/page/{quote(str(folder.relative_to(self.root)))}"

    def handle_error(self, *connection: Any) -> None:
        """Print nothing if a browser closes a connection."""


def version_of(folder: Path) -> str:
    """A hash that changes whenever one of the files of a run changes, or its state."""
    found = [file.stat() for name in (*PARTS, "samples", "figures") if (file := folder / name).exists()]
    parts = [f"{each.st_mtime_ns} {each.st_size}" for each in found]
    with contextlib.suppress(UserError):  # of a damaged record
        parts.append(RunRecord(folder).state)
    return digest(*parts)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        """Serve a page, if the Host header names this machine."""
        if not re.fullmatch(LOCAL, self.headers.get("Host", "")):
            return self.send_error(403, explain="this server has another name")
        try:
            address = urlsplit(self.path)
            text, version = self.server.page(unquote(address.path), address.query)
        except UserError as error:
            return self.send_error(404, explain=str(error))
        except Exception as error:  # files may vanish, or be damaged, while they are read
            return self.send_error(500, explain=f"{type(error).__name__}: {first_line(error)}")
        same = self.headers.get("If-None-Match") == version
        self.send_response(304 if same else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(b"" if same else text.encode())
        return None

    def log_message(self, *words: Any) -> None:
        """Log nothing, since each page polls every few seconds."""


main = Arguments("watch", __doc__, watch)
main.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
main.add_argument("--port", type=int, default=8300, help="default: 8300; 0: any free port")
