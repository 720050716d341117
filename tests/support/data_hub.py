"""A small stand-in of the Hugging Face Hub's HTTP interface, for data sets: it lists files, and sends them."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"  # of the only commit


class Answer(BaseHTTPRequestHandler):
    """`sets` are the files of each data set by their path; `gated` ones are refused."""

    sets: dict[str, dict[str, bytes]]
    gated: set[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def send(self, status: int, content: object = b"", **headers: str) -> None:
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
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        found = re.fullmatch(
            r"(?:/api)?/datasets/([^/]+/[^/]+?)(?:/(revision|tree|paths-info|resolve)/([^/]+)(/.*)?)?", path
        )
        if found is None or (name := found[1]) not in self.sets or found[3] not in (None, "main", SHA):
            code = "RevisionNotFound" if found and found[1] in self.sets else "RepoNotFound"
            return self.send(404, {"error": code}, X_Error_Code=code)
        if name in self.gated:
            return self.send(403, {"error": "gated"}, X_Error_Code="GatedRepo")
        files, below = self.sets[name], (found[4] or "/")[1:]
        entries = [
            {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for file, content in files.items()
        ]
        folders = {str(parent) for file in files for parent in Path(file).parents if str(parent) != "."}
        entries += [{"type": "directory", "path": folder, "oid": "0"} for folder in sorted(folders)]
        if found[2] == "resolve":
            if below not in files:
                return self.send(404, {"error": "no such file"}, X_Error_Code="EntryNotFound", X_Repo_Commit=SHA)
            etag = hashlib.sha1(files[below]).hexdigest()
            return self.send(200, files[below], ETag=f'"{etag}"', X_Repo_Commit=SHA, Accept_Ranges="bytes")
        if found[2] == "tree":
            here = [entry for entry in entries if entry["path"].startswith(f"{below}/" if below else "")]
            return self.send(200, here)
        if found[2] == "paths-info":
            wanted = json.loads(asked)["paths"]
            return self.send(200, [entry for entry in entries if entry["path"] in wanted])
        return self.send(200, {"id": name, "sha": SHA, "siblings": [{"rfilename": file} for file in files]})

    do_GET = do_HEAD = do_POST = answer


@contextmanager
def serving(cache: Path) -> Iterator[type[Answer]]:
    """A Hub that datasets and huggingface_hub use in this process, with their caches below a folder."""
    import datasets.config
    from huggingface_hub import HfFileSystem, constants

    hub = type("Hub", (Answer,), {"sets": {}, "gated": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{server.server_port}"
        url = there + "/{repo_id}/resolve/{revision}/{filename}"
        own = {"ENDPOINT": there, "HF_HUB_CACHE": str(cache / "hub"), "HUGGINGFACE_CO_URL_TEMPLATE": url}
        theirs = {
            "HF_ENDPOINT": there, "HUB_DATASETS_URL": there + "/datasets/{repo_id}/resolve/{revision}/{path}",
            "HF_DATASETS_CACHE": cache / "datasets", "DOWNLOADED_DATASETS_PATH": cache / "datasets" / "downloads",
        }  # fmt: skip
        with patch.multiple(constants, **own), patch.multiple(datasets.config, **theirs):
            HfFileSystem.clear_instance_cache()
            yield hub
        HfFileSystem.clear_instance_cache()
        server.shutdown()
