"""A small stand-in of the Hugging Face Hub's HTTP interface: it lists and sends files, and takes commits of models."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import yaml

Files = Mapping[str, bytes]
ERRORS = {"RepoNotFound": 404, "RevisionNotFound": 404, "EntryNotFound": 404, "GatedRepo": 403}
PLACE = re.compile(r"(?:/api)?(?:/(models|datasets))?/([^/]+/[^/]+?)(?:/([a-z-]+)/([^/]+)(?:/(.*))?)?")


def oid(content: bytes | str) -> str:
    return hashlib.sha1(content if isinstance(content, bytes) else content.encode()).hexdigest()


class Refused(Exception):
    """An answer with an error: its code in the header, or a status and a message."""


class Hub(ThreadingHTTPServer):
    """Repositories of models and of data sets in memory, as lists of commits; each is (sha, files)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, list[tuple[str, Files]]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.requests: list[str] = []  # METHOD path
        self.tokens = {"may-write": True, "may-read": False}  # token -> whether it may write

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, name: str, files: Files) -> str:
        """Add a commit with exactly these files; returns its sha."""
        commits = self.repositories.setdefault(name, [])
        commits.append((oid(f"{name} {len(commits)}"), files))
        return commits[-1][0]

    def at(self, name: str, revision: str = "main") -> tuple[str, Files]:
        if name not in self.repositories:
            raise Refused("RepoNotFound")
        commits = {sha: (sha, files) for sha, files in self.repositories[name]} | {"main": self.repositories[name][-1]}
        if revision not in commits:
            raise Refused("RevisionNotFound")
        return commits[revision]


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def send(self, content: object = b"", status: int = 200, **headers: str) -> None:
        """Send bytes, or JSON, also to a request of a part; in the names of headers, _ stands for -."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        if (part := self.headers.get("Range")) and status == 200:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", part).groups()
            end = min(int(last or len(body)) + 1, len(body))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(body)}"
            status, body = 206, body[int(first) : end]
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self.check_token()
            if path in ("/api/repos/create", "/api/validate-yaml"):
                self.create(json.loads(body)) if "create" in path else self.valid(json.loads(body))
            elif found := PLACE.fullmatch(path):
                self.place(found[2], found[3] or "revision", found[4] or "main", found[5] or "", body)
            else:
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
        if self.command == "POST" and "paths-info" not in self.path and not self.server.tokens.get(token):
            raise Refused("403 Forbidden: this token may only read" if token else "401 No token")

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.server.url}/{name}"
        if name in self.server.repositories:
            return self.send({"error": "You already created this model repo", "url": url}, 409)
        self.server.commit(name, {".gitattributes": b""})
        if asked.get("visibility") == "private" or asked.get("private"):
            self.server.private.add(name)
        return self.send({"url": url})

    def valid(self, asked: dict[str, Any]) -> None:
        assert isinstance(yaml.safe_load(asked["content"].split("---\n")[1])["tags"], list)
        self.send({"errors": [], "warnings": []})

    def place(self, name: str, action: str, revision: str, below: str, body: bytes) -> None:
        """Answer about the files of a repository at a revision."""
        sha, files = self.server.at(name, revision)
        if name in self.server.gated and (action == "resolve" or "/datasets/" in self.path):
            raise Refused("GatedRepo")
        entries = [{"type": "file", "path": file, "size": len(data), "oid": oid(data)} for file, data in files.items()]
        folders = {str(parent) for file in files for parent in Path(file).parents if str(parent) != "."}
        entries += [{"type": "directory", "path": folder, "oid": "0"} for folder in sorted(folders)]
        if action == "resolve":
            if below not in files:
                raise Refused("EntryNotFound")
            self.send(files[below], ETag=f'"{oid(files[below])}"', X_Repo_Commit=sha, Accept_Ranges="bytes")
        elif action == "tree":
            self.send([entry for entry in entries if entry["path"].startswith(f"{below}/" if below else "")])
        elif action == "paths-info":
            self.send([entry for entry in entries if entry["path"] in json.loads(body)["paths"]])
        elif action == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            self.send({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]})
        elif action == "commit":
            kept = {**files}
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del kept[line["value"]["path"]]
            new = self.server.commit(name, kept)
            self.send({"commitUrl": f"{self.server.url}/{name}/commit/{new}", "commitOid": new})
        else:
            front = files.get("README.md", b"---\n{}\n---\n").decode().split("---\n")[1]
            tags = yaml.safe_load(front).get("tags", [])
            self.send({"id": name, "sha": sha, "siblings": [{"rfilename": file} for file in files], "tags": tags})


@contextmanager
def serving(cache: Path, token: str | None = None, sets: bool = False) -> Iterator[Hub]:
    """A Hub that huggingface_hub uses in this process, and with `sets` also datasets, with their caches in a folder."""
    from huggingface_hub import HfFileSystem, constants

    with Hub() as hub, ExitStack() as patched:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        own = {"ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache / "hub"), "HF_TOKEN_PATH": str(cache / "token"),
               "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}"}  # fmt: skip
        patched.enter_context(patch.multiple(constants, **own))
        patched.enter_context(patch.dict("os.environ", {"HF_TOKEN": token} if token else {}))
        if sets:
            import datasets.config

            places = {"HF_ENDPOINT": hub.url, "HF_DATASETS_CACHE": cache / "datasets",
                      "HUB_DATASETS_URL": hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}",
                      "DOWNLOADED_DATASETS_PATH": cache / "datasets" / "downloads"}  # fmt: skip
            patched.enter_context(patch.multiple(datasets.config, **places))
        HfFileSystem.clear_instance_cache()
        yield hub
        HfFileSystem.clear_instance_cache()
        hub.shutdown()
