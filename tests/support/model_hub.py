"""A small stand-in of the Hugging Face Hub's HTTP interface, for models."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import yaml
from http_handler import Handler

Files = dict[str, bytes]
ERRORS = {"RepoNotFound": 404, "RevisionNotFound": 404, "EntryNotFound": 404, "GatedRepo": 403}


class Refused(Exception):
    """An answer with an error: its code in the header, or a status."""


class Hub(ThreadingHTTPServer):
    """Repositories in memory, as lists of commits; each is (sha, files)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, list[tuple[str, Files]]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.requests: list[str] = []  # METHOD path
        self.tokens = {"may-write": True, "may-read": False}  # token -> whether it may write

    def commit(self, name: str, files: Files) -> str:
        """Add a commit with exactly these files; returns its sha."""
        commits = self.repositories.setdefault(name, [])
        sha = hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest()
        commits.append((sha, files))
        return sha

    def at(self, name: str, revision: str = "main") -> tuple[str, Files]:
        if name not in self.repositories:
            raise Refused("RepoNotFound")
        commits = {sha: (sha, files) for sha, files in self.repositories[name]}
        commits["main"] = self.repositories[name][-1]
        if revision not in commits:
            raise Refused("RevisionNotFound")
        return commits[revision]


class Answer(Handler):
    server: Hub

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self.check_token()
            for pattern, method in ROUTES.items():
                if match := re.fullmatch(pattern, f"{self.command} {path}"):
                    getattr(self, method)(*match.groups(), body=body)
                    return
            raise Refused("EntryNotFound")
        except Refused as error:
            code = str(error)
            more = {"X_Error_Code": code} if code in ERRORS else {"X_Error_Message": code.partition(" ")[2]}
            self.send({"error": code}, ERRORS.get(code) or int(code.partition(" ")[0]), **more)

    do_GET = do_HEAD = do_POST = answer

    def check_token(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.tokens:
            raise Refused("401 Invalid credentials in Authorization header")
        if self.command == "POST" and not self.server.tokens.get(token):
            raise Refused("403 Forbidden: this token may only read" if token else "401 No token")

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            self.send({"error": "You already created this model repo", "url": self.url(name)}, 409)
            return
        self.server.commit(name, {".gitattributes": b""})
        if asked.get("visibility") == "private" or asked.get("private"):
            self.server.private.add(name)
        self.send({"url": self.url(name)})

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def valid(self, body: bytes) -> None:
        front = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        assert isinstance(front["tags"], list)
        self.send({"errors": [], "warnings": []})

    def info(self, name: str, revision: str | None, body: bytes) -> None:
        sha, files = self.server.at(name, revision or "main")
        front = files.get("README.md", b"---\n{}\n---\n").decode().split("---\n")[1]
        siblings = [{"rfilename": path} for path in files]
        self.send({"id": name, "sha": sha, "siblings": siblings, "tags": yaml.safe_load(front).get("tags", [])})

    def tree(self, name: str, revision: str, body: bytes) -> None:
        files = self.server.at(name, revision)[1]
        self.send([{"type": "file", "path": path, "size": len(data), "oid": oid(data)} for path, data in files.items()])

    def preupload(self, name: str, body: bytes) -> None:
        files = json.loads(body)["files"]
        self.send({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})

    def add(self, name: str, body: bytes) -> None:
        files = {**self.server.at(name)[1]}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.server.commit(name, files)
        self.send({"commitUrl": f"{self.url(name)}/commit/{sha}", "commitOid": sha})

    def resolve(self, name: str, revision: str, path: str, body: bytes) -> None:
        sha, files = self.server.at(name, revision)
        if name in self.server.gated:
            raise Refused("GatedRepo")
        if path not in files:
            raise Refused("EntryNotFound")
        self.send(files[path], ETag=f'"{oid(files[path])}"', X_Repo_Commit=sha)


ROUTES = {
    "POST /api/repos/create": "create",
    "POST /api/validate-yaml": "valid",
    "GET /api/models/([^/]+/[^/]+)(?:/revision/(.+))?": "info",
    "GET /api/models/([^/]+/[^/]+)/tree/([^/]+)": "tree",
    "POST /api/models/([^/]+/[^/]+)/preupload/main": "preupload",
    "POST /api/models/([^/]+/[^/]+)/commit/main": "add",
    "(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)": "resolve",
}


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serving(cache: Any, token: str | None = None) -> Iterator[Hub]:
    """A Hub that huggingface_hub uses in this process, with a cache in this folder."""
    from huggingface_hub import constants

    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{hub.server_port}"
        own = {
            "ENDPOINT": there, "HF_HUB_CACHE": str(cache), "HF_TOKEN_PATH": str(cache / "token"),
            "HUGGINGFACE_CO_URL_TEMPLATE": there + "/{repo_id}/resolve/{revision}/{filename}",
        }  # fmt: skip
        env = patch.dict("os.environ", {"HF_TOKEN": token} if token else {})
        with patch.multiple(constants, **own), env:
            yield hub
        hub.shutdown()
