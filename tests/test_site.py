"""The site of the documentation has every page, choice and setting, and its pages open without errors."""

import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import pytest
from browser import chromium, visit  # noqa: F401

from diffusion.base.files import PACKAGE
from diffusion.config.choices import choices, groups
from diffusion.config.messages import _settings
from diffusion.config.schema import COMMANDS
from docs import site

ROOT = PACKAGE.parent


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "build/pages"
    site.stage(folder)
    return folder


def test_the_order_names_every_page(pages):
    ordered = {pages / target for target in re.findall(r"\]\((.+)\)", (pages / ".order.md").read_text("utf-8"))}
    assert ordered <= {*pages.rglob("*.md")}
    assert {*pages.rglob("*.md")} - ordered - {*pages.glob("docs/results/*/*.md")} == {pages / ".order.md"}


@pytest.mark.parametrize("group", groups())
def test_the_page_of_a_group_has_each_choice_and_setting(pages, group):
    text = (pages / f"reference/{group}.md").read_text("utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == choices(group)
    for key in {*re.findall(r"^(\w+): ", "".join(site.read(group, name)[0] for name in choices(group)), re.MULTILINE)}:
        assert key in ("defaults", "_target_", "_partial_") or re.search(rf"\b{key}\b", text), key


def test_the_page_of_settings_has_those_of_the_help(pages):
    text = (pages / "reference/settings.md").read_text("utf-8")
    for schema in COMMANDS.values():
        for setting, _ in _settings(schema):
            assert f"| `{setting}`" in text, setting


def test_the_modules_of_the_library_exist():
    assert all(find_spec(f"diffusion.{name}") for name in site.API)


@pytest.fixture(scope="module")
def address(pages):
    """The address of the built site."""
    pytest.importorskip("zensical", reason="make test-doors installs it")
    shutil.copy(ROOT / "mkdocs.yml", pages.parents[1])
    python = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])}
    build = [sys.executable, "-m", "zensical", "build", "--strict"]  # strict: links and anchors have targets
    built = subprocess.run(build, cwd=pages.parents[1], env=python, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(pages.parents[1] / "site"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that prints no requests."""

    def log_message(self, format, *words):
        pass


@pytest.mark.doors
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1300, "light")])
@pytest.mark.parametrize(
    "page", ["", "docs/data/", "docs/tour/", "reference/sampler/", "reference/settings/", "api/process/"]
)
def test_a_page_of_the_site_fits_and_asks_nobody_else(chromium, address, page, width, scheme):  # noqa: F811
    with visit(chromium, f"{address}/{page}", width, scheme) as opened:
        assert opened.overflow <= 0
        assert not opened.errors
        commands = opened.page.locator(".language-bash code")
        assert not commands.evaluate_all("every => every.some(each => each.scrollWidth > each.clientWidth)")
        assert all(request.startswith(address) for request in opened.requests)
