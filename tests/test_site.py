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
from PIL import Image

from diffusion.base.files import PACKAGE
from diffusion.config.choices import choices, files, groups, searching
from diffusion.config.messages import _settings
from diffusion.config.schema import COMMANDS
from docs import site

ROOT = PACKAGE.parent


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "build/pages"
    site.stage(folder, ["grid"])  # those of all groups take a minute
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


@pytest.mark.parametrize("group", ["timesteps", "grid"])
def test_each_choice_has_a_picture_or_is_listed(group):
    page = site.choices.page([group])
    shown, listed = (
        re.findall(rf, page) for rf in (rf'<figure id="{group}-(\w+)"><svg', r"(?m)^- `(\w+)` has no picture")
    )
    assert sorted([*shown, *listed]) == choices(group)
    assert listed == (["from_floor", "loss_second_moment"] if group == "timesteps" else [])


def test_a_new_sampler_has_a_picture_of_its_own(tmp_path):
    (tmp_path / "sampler").mkdir()
    ddim = files("sampler")["ddim"].read_text("utf-8")
    (tmp_path / "sampler/own.yaml").write_text(ddim.replace("eta: 0.0", "eta: 1.0"), "utf-8")
    with searching([tmp_path]):
        own, other = (site.choices.curve("sampler", name).replace(name, "") for name in ("own", "ddim"))
        assert "own" in files("sampler")
        assert own != other


def test_a_fault_of_one_choice_is_listed(tmp_path):
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid/own.yaml").write_text("_target_: no.such_grid\n_partial_: true\n", "utf-8")
    with searching([tmp_path]):
        assert "- `own` has no picture: grid: no.such_grid" in site.choices.page(["grid"])


def test_the_gallery_shows_the_runs_that_are_there(tmp_path):
    run = tmp_path / "runs/demo"
    (run / "samples").mkdir(parents=True)
    (run / "report.html").write_text("its page", "utf-8")
    Image.new("RGB", (999, 99)).save(run / "samples/final.png")
    text = site.gallery.page(tmp_path / "pages", tmp_path / "runs")
    for target in re.findall(r"\]\((.+?)\)", text):
        assert (tmp_path / "pages" / target).is_file()
    assert "## The demo" in text
    assert "Not here yet: the memoir" in text


def test_the_modules_of_the_library_exist():
    assert all(find_spec(f"diffusion.{name}") for name in site.API)


@pytest.fixture(scope="module")
def address(pages):
    """The address of the built site."""
    pytest.importorskip("zensical", reason="make test-doors installs it")
    shutil.copy(ROOT / "mkdocs.yml", pages.parents[1])
    site.stage_model(pages)
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
    "page",
    ["index", "gallery", "choices", "docs/architecture", "docs/finetune", "reference/sampler", "api/process"],
)
def test_a_page_of_the_site_fits_and_asks_nobody_else(chromium, address, page, width, scheme):  # noqa: F811
    with visit(chromium, f"{address}/{page}.html", width, scheme) as opened:
        assert opened.overflow <= 0
        assert not opened.errors
        commands = opened.page.locator(".language-bash code")
        assert not commands.evaluate_all("every => every.some(each => each.scrollWidth > each.clientWidth)")
        assert all(request.removeprefix("blob:").startswith(address) for request in opened.requests)


@pytest.mark.doors
def test_the_front_page_draws_from_a_folder(chromium, pages, address):  # noqa: F811
    with visit(chromium, (pages.parents[1] / "site/index.html").as_uri()) as opened:
        frame = opened.page.frame_locator("iframe.model")
        frame.get_by_text(re.compile("^4 in")).wait_for(timeout=120_000)
        assert (frame.locator("canvas").count(), opened.errors) == (4, [])
        assert all(request.startswith(("file:", "blob:")) for request in opened.requests)
