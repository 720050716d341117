"""A page as one HTML file that makes no network requests: data, style and scripts are embedded."""

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from diffusion.files import replace

ASSETS = Path(__file__).parent / "assets"
VENDOR = ("vendor/d3.min.js", "vendor/plot.umd.min.js")
SCRIPTS = ("core.js", "draw.js", "run.js", "comparison.js", "study.js", "index.js", "main.js")
NAME = "report.html"
DOCUMENT = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<noscript>This page needs JavaScript. A run's folder has the same numbers in README.md, that of a comparison in
compare.md, and that of a study in study.md or guidance.md.</noscript>
<main id="page"></main>
<script type="application/json" id="data">{data}</script>
{contents}
{scripts}
</body>
</html>
"""


def write_page(folder: Path, data: Mapping[str, Any]) -> Path:
    """Write report.html into `folder` and return its path."""
    path = folder / NAME
    replace(path, document(data))
    return path


def document(data: Mapping[str, Any], live: bool = False, contents: Mapping[str, bytes] | None = None) -> str:
    """The HTML page for `data`, which has at least a `kind` (run, comparison, study, index or model) and a `title`.

    A content security policy in the page blocks all other scripts and all network requests.

    Args:
        live: Whether the page may request newer data from the server that it comes from.
        contents: For a page with a model: the files that its script unpacks, name -> gzip.
    """
    scripts = [_asset(name) for name in (*VENDOR, *SCRIPTS)]
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    connect = "'self'" if live else "'none'"
    if contents:
        hashes += " blob: 'wasm-unsafe-eval'"  # the network's runtime is a JS module and a WebAssembly program
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )
    return DOCUMENT.format(
        policy=policy,
        title=html.escape(str(data["title"])),
        style=_asset("page.css"),
        data=as_json(data),
        contents="\n".join(
            f'<script type="application/gzip" id="packed-{name}">{base64.b64encode(content).decode()}</script>'
            for name, content in (contents or {}).items()
        ),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def as_json(data: Any) -> str:
    """JSON that cannot close its enclosing script element; non-finite numbers become null."""
    text = json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data


@cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text("utf-8").strip()


@cache
def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
