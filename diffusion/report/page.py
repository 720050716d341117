"""report.html: one self-contained file, with its style and scripts, that makes no network requests.

Its contents are the HTML of sections (`blocks.py`); assets/page.js makes them interactive. A content security policy in
the page blocks all other scripts and all requests, so text of strangers cannot do anything.
"""

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from diffusion.files import replace
from diffusion.report.blocks import Html, Section, tag

ASSETS = Path(__file__).parent / "assets"
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
{body}
{contents}
{scripts}
</body>
</html>
"""


def write_page(folder: Path, title: str, sections: Iterable[Section], state: str | None = None) -> Path:
    """Write report.html into `folder` and return its path."""
    path = folder / NAME
    replace(path, document(title, [section.html() for section in sections], state))
    return path


def document(
    title: str,
    sections: Iterable[Html],
    state: str | None = None,
    home: str | None = None,
    live: Mapping[str, Any] | None = None,
    model: Mapping[str, bytes] | None = None,
) -> str:
    """The page with these sections.

    Args:
        state: the state of a run, next to the title.
        home: the address of the page that lists all runs.
        live: `version` of a page that asks its server for a newer one, and how often: `refresh`, in seconds.
        model: for a page that draws samples (assets/draw.js): the files that its script unpacks, name -> gzip.
    """
    found = [section for section in sections if section]
    titles = [match for each in found if (match := re.match(r'<section id="([^"]*)".*?<h2[^>]*>(.*?)</h2>', each))]
    links = [tag("li", tag("a", Html(match[2]), href=f"#{match[1]}")) for match in titles]
    head = [
        tag("p", tag("a", "all runs", href=home)) if home else None,
        tag("h1", title),
        tag("span", state, class_=f"badge {''.join(filter(str.isalnum, state))}") if state else None,
        tag("nav", tag("ul", links), aria_label="Contents") if len(links) > 2 else None,
    ]
    data = {f"data_{key}": value for key, value in (live or {}).items()}
    body = tag("main", tag("header", head), found, id="page", **data)
    connect = "'self'" if live else "'none'"
    scripts = [_asset(name) for name in ("page.js", *(["draw.js"] if model else []))]
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    if model:
        hashes += " blob: 'wasm-unsafe-eval'"  # the network's runtime is a JS module and a WebAssembly program
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    packed = [
        f'<script type="application/gzip" id="packed-{name}">{base64.b64encode(content).decode()}</script>'
        for name, content in (model or {}).items()
    ]
    return DOCUMENT.format(
        policy=policy, title=html.escape(title), style=_asset("page.css"), body=body, contents="\n".join(packed),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )  # fmt: skip


@cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text("utf-8").strip()


@cache
def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
