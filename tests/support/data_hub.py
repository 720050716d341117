"""A small stand-in of the Hugging Face Hub's HTTP interface, for data sets: it lists files, and sends them."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

from http_handler import Handler

SHA = "0123456789abcdef0123456789abcdef01234567"  # of the only commit


class Answer(Handler):
    """`sets` are the files of each data set by their path; `gated` ones are refused."""

    sets: dict[str, dict[str, bytes]]
    gated: set[str]

    def answer(self) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        found = re.fullmatch(
            r"(?:/api)?/datasets/([^/]+/[^/]+?)(?:/(revision|tree|paths-info|resolve)/([^/]+)(/.*)?)?", path
        )
        if found is None or (name := found[1]) not in self.sets or found[3] not in (None, "main", SHA):
            code = "RevisionNotFound" if found and found[1] in self.sets else "RepoNotFound"
            return self.send({"error": code}, 404, X_Error_Code=code)
        if name in self.gated:
            return self.send({"error": "gated"}, 403, X_Error_Code="GatedRepo")
        files, below = self.sets[name], (found[4] or "/")[1:]
        entries = [
            {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for file, content in files.items()
        ]
        folders = {str(parent) for file in files for parent in Path(file).parents if str(parent) != "."}
        entries += [{"type": "directory", "path": folder, "oid": "0"} for folder in sorted(folders)]
        if found[2] == "resolve":
            if below not in files:
                return self.send({"error": "no such file"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=SHA)
            etag = hashlib.sha1(files[below]).hexdigest()
            return self.send(files[below], ETag=f'"{etag}"', X_Repo_Commit=SHA, Accept_Ranges="bytes")
        if found[2] == "tree":
            here = [entry for entry in entries if entry["path"].startswith(f"{below}/" if below else "")]
            return self.send(here)
        if found[2] == "paths-info":
            wanted = json.loads(asked)["paths"]
            return self.send([entry for entry in entries if entry["path"] in wanted])
        return self.send({"id": name, "sha": SHA, "siblings": [{"rfilename": file} for file in files]})

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
