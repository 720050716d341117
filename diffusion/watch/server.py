"""Serve live pages of the runs in a folder: read-only, on the loopback address by default."""

import contextlib
import hashlib
import hmac
import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

from diffusion.console import console
from diffusion.errors import UserError, first_line
from diffusion.report.compare import compare, gather
from diffusion.report.page.comparison import comparison_page
from diffusion.report.page.document import as_json, document
from diffusion.report.page.index import entry_of, index_page, relative
from diffusion.report.page.run import recipe_of, run_page
from diffusion.report.page.study import is_study, study_page
from diffusion.runs.folder import CONFIGS, PARTS, Run, is_run, is_sweep, runs_below
from diffusion.runs.record import RunRecord

REFRESH = 3.0  # seconds between the polls of a page


class Pages:
    """The data of the pages below a folder; a page is rebuilt only when its files have changed.

    Addresses: the empty string is the page of the folder itself, `a/b` is the page of a folder inside it.
    """

    def __init__(self, root: Path):
        self.root = root
        self.held: dict[tuple[str, Path], tuple[str, Any]] = {}  # (kind, folder) -> (version, data)
        self.lock = threading.Lock()

    def page(self, address: str, refresh: float = REFRESH) -> dict[str, Any]:
        """The data of a page, including its `version`. Raises UserError if there is no such page."""
        folder = self.root / address if address else self.root
        if address and folder not in self.known():
            raise UserError(f"{address}: no run, sweep or study here")
        with self.lock:
            data, version = self.made(folder)
        home = "/" if address else None
        return {**data, "version": version, "source": f"/data/{quote(address)}", "refresh": refresh, "home": home}

    def known(self) -> set[Path]:
        """The folders that have a page: those of commands and of sweeps."""
        runs = set(runs_below(self.root))
        return runs | {path.parent for path in runs if path.parent != self.root and is_sweep(path.parent)}

    def made(self, folder: Path) -> tuple[dict[str, Any], str]:
        if is_run(folder):
            version = version_of(folder)
            return self.kept("page", folder, version, lambda: self.of_run(folder)), version
        runs = list(runs_below(folder))
        version = combined(*(str(path) + version_of(path) for path in runs))
        if is_sweep(folder):
            return self.kept("page", folder, version, lambda: self.of_sweep(folder)), version
        return self.kept("page", folder, version, lambda: index_page(folder, self.link, self.entry)), version

    def of_run(self, folder: Path) -> dict[str, Any]:
        run = Run(folder)
        if is_study(run):
            return study_page(run)
        settings = combined(*(stamp(folder / name) for name in CONFIGS))
        page = run_page(run, recipe=self.kept("recipe", folder, settings, lambda: recipe_of(run)))
        return {**page, "files": [], "title": f"Run {relative(folder, self.root)}"}

    def of_sweep(self, folder: Path) -> dict[str, Any]:
        found = [run.folder for run in gather([folder])]
        jobs = [self.kept("job", job, version_of(job), partial(Run, job)) for job in found]  # read again if changed
        page = comparison_page(compare(jobs, mixed=True), folder, f"Sweep {relative(folder, self.root)}")
        for run, job in zip(page["runs"], jobs, strict=True):
            run["link"] = self.link(job.folder)
        return page

    def link(self, folder: Path) -> str:
        return f"/page/{quote(str(folder.relative_to(self.root)))}"

    def entry(self, folder: Path) -> dict[str, Any]:
        return self.kept("entry", folder, version_of(folder), lambda: entry_of(folder, self.root))

    def kept(self, kind: str, folder: Path, version: str, make: Callable[[], Any]) -> Any:
        """The cached result of `make` for this version of the folder's files."""
        before = self.held.get((kind, folder))
        if before is None or before[0] != version:
            before = self.held[kind, folder] = version, make()
        return before[1]


def version_of(folder: Path) -> str:
    """A hash that changes whenever a file shown on the run's page changes, or its state."""
    return combined(*(stamp(folder / name) for name in (*PARTS, "samples", "figures")), RunRecord(folder).state)


def stamp(path: Path) -> str:
    """The modification time and size of a file; empty if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_mtime_ns} {found.st_size}"


def combined(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class Handler(BaseHTTPRequestHandler):
    """Handle GET requests (no others) for the pages of `pages`."""

    pages: ClassVar[Pages]
    token: ClassVar[str | None] = None
    protocol_version = "HTTP/1.1"
    timeout = 60

    def handle(self) -> None:
        """Serve a connection, which the browser may reset at any time."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Serve `/` and `/page/ADDRESS` (pages), and `/data/ADDRESS` (the data of a page)."""
        place = urlsplit(self.path)
        if not self.addressed_here():
            self.answer(HTTPStatus.FORBIDDEN, "this server has another name")
        elif (given := parse_qs(place.query).get("token")) and self.token and same(given[0], self.token):
            self.answer(
                HTTPStatus.SEE_OTHER,
                "",
                Location=place.path,
                **{"Set-Cookie": f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"},
            )
        elif not self.allowed():
            self.answer(HTTPStatus.FORBIDDEN, "open the address that diffusion.watch has printed: it contains a token")
        else:
            self.serve(unquote(place.path))

    def addressed_here(self) -> bool:
        """Whether the Host header is a loopback name; without a token, no other name is accepted (DNS rebinding)."""
        if self.token is not None:
            return True
        try:
            return is_loopback(urlsplit("//" + self.headers.get("Host", "")).hostname or "")
        except ValueError:  # brackets without an address
            return False

    @property
    def cookie(self) -> str:
        """The name of the cookie with the token. Browsers send the cookies of all ports of a host."""
        return f"token-{self.connection.getsockname()[1]}"

    def allowed(self) -> bool:
        """Whether the browser has sent the token, if one is required."""
        sent = dict(part.strip().partition("=")[::2] for part in self.headers.get("Cookie", "").split(";"))
        return self.token is None or same(sent.get(self.cookie, ""), self.token)

    def serve(self, path: str) -> None:
        kind, address = ("page", "") if path == "/" else [*path.split("/", 2), ""][1:3]
        if kind not in ("page", "data"):
            self.answer(HTTPStatus.NOT_FOUND, "there is nothing here")
            return
        try:
            data = self.pages.page(address)
            new = self.headers.get("If-None-Match") != data["version"]
            content = document(data, live=True) if kind == "page" else as_json(data) if new else ""
        except UserError as error:
            self.answer(HTTPStatus.NOT_FOUND, str(error))
        except Exception as error:  # files may vanish, or be damaged, while they are read
            console.print(
                f"cannot build the page of {address or '/'}: {type(error).__name__}: {first_line(error)}",
                style="yellow",
                soft_wrap=True,
            )
            said = f"this page cannot be built now ({type(error).__name__}); see the terminal of diffusion.watch"
            self.answer(HTTPStatus.INTERNAL_SERVER_ERROR, said)
        else:
            if kind == "page":
                self.answer(HTTPStatus.OK, content, "text/html")
            elif new:
                self.answer(HTTPStatus.OK, content, "application/json")
            else:
                self.answer(HTTPStatus.NOT_MODIFIED, "")

    def answer(self, status: HTTPStatus, text: str, kind: str = "text/plain", **headers: str) -> None:
        content = text.encode()
        self.send_response(status)
        fixed = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        for name, value in (fixed | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing, since each page polls every few seconds."""


def same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode(), b.encode())


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_server(root: Path, host: str, port: int, token: str | None) -> ThreadingHTTPServer:
    """Create a server for the pages below `root`. Raises OSError if it cannot listen."""
    handler = type("Bound", (Handler,), {"pages": Pages(root), "token": token})
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return type("Server", (ThreadingHTTPServer,), {"address_family": family})((host, port), handler)
