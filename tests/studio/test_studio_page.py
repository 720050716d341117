"""The studio's page over HTTP: it draws, stops and saves, and keeps sessions separate."""

import base64
import html
import io
import re
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="the studio's page needs gradio: pip install 'diffusion-experiments[studio]'")
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import diffusion
from diffusion.config.choices import searching
from diffusion.errors import UserError
from diffusion.studio import page as studio_page
from diffusion.studio.requests import Request, Stopped, training_images, words_of
from tests.support.browser import chromium, visit

__all__ = ["chromium"]

COMMON = (4, "heun", 3, "", "", "run", "", "", "bf16-mixed")  # the seed, the sampler, its steps, …


@pytest.fixture(scope="module")
def model(two_steps):
    return diffusion.load(two_steps, device="cpu")


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.chdir(tmp_path_factory.mktemp("here"))
    patch.setenv("GRADIO_TEMP_DIR", "")  # restores it after the test
    patch.setenv("NO_PROXY", "127.0.0.1")  # bypasses a proxy of the machine
    patch.setattr(Image, "ID", [*Image.ID])
    patch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    with studio_page.temporary_uploads():
        page = studio_page.build(model.restored, model.device, training_images(model.restored))
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **studio_page.options())
        yield url
        page.close()
    assert not list(Path.cwd().iterdir())
    patch.undo()


@pytest.fixture
def client(address) -> Client:
    return Client(address, verbose=False, download_files=False)


def saved(words: str) -> tuple[str, np.ndarray]:
    """The command, and the images of the archive."""
    command = html.unescape(re.search("<pre[^>]*>(.*)</pre>", words)[1])
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(re.search('zip;base64,([^"]*)', words)[1]))) as file:
        names = sorted(name for name in file.namelist() if name.startswith("images/"))
        return command, np.stack([np.asarray(Image.open(io.BytesIO(file.read(name)))) for name in names])


def as_array(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def test_two_samplers_draw_side_by_side_and_are_saved(client, model):
    one, words, other, others = client.predict("ddim", 2, *COMMON, api_name="/draw")
    for picture, said, sampler in ((one, words, "heun"), (other, others, "ddim")):
        assert picture.count("data:image/png") == 2  # the images, and next to the nearest training images
        assert picture.count("data:image/gif") == 1
        command, images = saved(said)
        assert f"sampler={sampler}" in command
        assert (images == as_array(model.sample(2, sampler, seed=4, steps=3))).all()
        assert str(Path(model.restored.path).parents[2]) not in picture + said


def test_an_uploaded_picture_can_be_varied_and_inpainted(client, model, tmp_path):
    pixels = np.full((16, 16, 3), (200, 30, 90), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    layer = np.zeros((32, 32, 4), np.uint8)
    layer[:, 16:] = 255
    Image.fromarray(layer).save(tmp_path / "layer.png")
    file = handle_file(str(tmp_path / "picture.png"))
    command, images = saved(client.predict(file, 0.5, 2, *COMMON, api_name="/vary")[1])
    assert "strength=0.5" in command
    assert len(images) == 2
    canvas = client.predict(file, api_name="/canvas")
    assert Image.open(canvas["background"]["path"]).size == (384, 384)
    painted: dict[str, Any] = {
        "background": None,
        "layers": [handle_file(str(tmp_path / "layer.png"))],
        "composite": None,
    }
    command, images = saved(client.predict(file, painted, "repaint", 2, 2, *COMMON, api_name="/fill")[1])
    assert "inpainting.passes=2 image=picture.png mask=mask.png" in command
    assert (images[:, :, :4] == (200, 30, 90)).all()
    assert (images[:, :, 4:] != (200, 30, 90)).any()


def test_interpolation_between_two_seeds_equals_the_library(client, model):
    command, images = saved(client.predict(0, 1, 3, *COMMON, api_name="/between")[1])
    own = (4, "run", 0, *COMMON[3:])
    assert "steps" not in saved(client.predict(0, 1, 3, *own, api_name="/between")[1])[0]
    assert "interpolate=[0,1]" in command
    assert (images == as_array(model.interpolate(0, 1, 3, sampler="heun", steps=3, precision="bf16-mixed"))).all()


def test_a_session_stops_only_its_own_drawing(client, address):
    job = client.submit("none", 1, 4, "ddim", 1000, *COMMON[3:], api_name="/draw")
    while not job.outputs():
        pass
    assert "step" in job.outputs()[-1][1]
    assert Client(address, verbose=False).predict(api_name="/stop") == "nothing is being drawn"
    assert client.predict(api_name="/stop") == "stopping after this step"
    assert job.result()[1] == "stopped"


def test_stop_ends_all_drawings_of_a_session(model):
    page, session = studio_page.Page(model.restored, model.device, None), SimpleNamespace(session_hash="s")
    long = {"n": 1, "sampler": "ddim", "sampler.steps": 1000}
    running = [page.run(Request("sample", long), session) for _ in range(2)]  # in two tabs
    assert all(next(each)[1] == "step 1 of 1000" for each in running)
    assert page.stop(session) == "stopping after this step"
    assert [list(each)[-1] for each in running] == [("", "stopped")] * 2
    assert page.stop(session) == "nothing is being drawn"


def test_own_choices_can_be_drawn_although_the_server_has_its_own_threads(model, tmp_path):
    (tmp_path / "conf/sampler").mkdir(parents=True)
    (tmp_path / "conf/sampler/mine.yaml").write_text("defaults: [heun, _self_]\nsteps: 2\n")
    with searching([tmp_path / "conf"]):
        page = studio_page.Page(model.restored, model.device, None)
    found: list[Any] = []

    def serve() -> None:
        request = Request("sample", {"n": 1, "sampler": "mine", "seed": 3})
        found.extend(page.run(request, SimpleNamespace(session_hash="s")))

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    command, images = saved(found[-1][1])
    assert "hydra.searchpath=[conf]" in command
    assert (images == as_array(model.sample(1, "heun", seed=3, steps=2))).all()


def test_the_effort_of_a_filling_is_the_methods_own_unless_it_is_set(model, monkeypatch):
    asked: list[dict[str, Any]] = []
    page = studio_page.Page(model.restored, model.device, None)
    monkeypatch.setattr(page, "run", lambda request, session: asked.append(request.values) or iter([]))
    monkeypatch.setattr(page, "read", lambda file: None)
    monkeypatch.setattr(page, "mask", lambda painted: None)
    for method, effort in (("repaint", 0), ("split_gibbs", 0), ("split_gibbs", 150)):
        list(page.fill(None, None, method, effort, 2, None, *COMMON))
    assert [{k: v for k, v in each.items() if k.startswith("inpainting")} for each in asked] == [
        {"inpainting": "repaint"}, {"inpainting": "split_gibbs"},
        {"inpainting": "split_gibbs", "inpainting.rounds": 150},
    ]  # fmt: skip


def test_a_class_named_default_can_be_drawn(model):
    page = studio_page.Page(model.restored, model.device, None)
    assert page.values((*COMMON[:7], "default", ""))["label"] == "default"


def test_a_stopped_drawing_does_not_begin_with_the_second_sampler(model, monkeypatch):
    started = []

    def stream(restored, device, request, stop, context):
        started.append(request.values["sampler"])
        yield 1, 3, torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        raise Stopped

    monkeypatch.setattr(studio_page.requests, "stream", stream)
    page = studio_page.Page(model.restored, model.device, None)
    shown = list(page.draw("heun", 1, SimpleNamespace(session_hash="s"), 0, "ddim", 3, *COMMON[3:]))
    assert started == ["ddim"]
    assert shown[-1] == ("", "stopped", "", "")


def test_an_empty_guidance_scale_is_omitted_and_zero_is_valid(model):
    page = studio_page.Page(model.restored, model.device, None)
    for typed, scale in (("0", 0), (" 1.5 ", 1.5), ("1e400", float("inf")), ("1; rm", "1; rm")):
        values = page.values((4, "run", 0, "", "", "run", typed, "", ""))
        assert values == {"seed": 4, "sampler": "run", "guidance": "run", "guidance.scale": scale}
    assert words_of(Request("sample", {"guidance.scale": 0.0}), {}) == ["guidance.scale=0"]
    for refused in (float("inf"), "1; rm"):
        with pytest.raises(UserError, match="expected a number from 0 to 20"):
            words_of(Request("sample", {"guidance.scale": refused}), {})
    assert "guidance.scale" not in page.values(COMMON)


def test_invalid_uploads_and_values_are_refused_without_revealing_paths(client, tmp_path):
    Path(tmp_path, "text.png").write_text("no picture")
    for call, said in (
        (
            (handle_file(str(tmp_path / "text.png")), 0.6, 2, *COMMON, "/vary"),
            "image=text.png: not an image in a known",
        ),
        ((None, 0.6, 2, *COMMON, "/vary"), "upload a picture first"),
        (("none", 99, *COMMON, "/draw"), "99"),
        (
            ("none", 1, *COMMON[:6], "<b>", "", "", "/draw"),
            "guidance.scale='&lt;b&gt;': expected a number",
        ),
    ):
        *values, name = call
        with pytest.raises(AppError) as refused:
            client.predict(*values, api_name=name)
        assert said in str(refused.value)
        assert "/tmp" not in str(refused.value)


def test_decoders_of_unsupported_formats_are_disabled(address):
    assert "EPS" not in Image.ID
    assert "PNG" in Image.ID
    assert Image.MAX_IMAGE_PIXELS <= studio_page.PIXELS


def test_no_folder_of_the_user_is_revealed_to_the_browser(address, model, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    with (tmp_path / "picture.png").open("rb") as file:
        uploaded = httpx.post(f"{address}gradio_api/upload", files={"files": ("picture.png", file)})
    picture = {"path": uploaded.json()[0], "meta": {"_type": "gradio.FileData"}}
    job = httpx.post(f"{address}gradio_api/call/canvas", json={"data": [picture]}).json()["event_id"]
    canvas = httpx.get(f"{address}gradio_api/call/canvas/{job}").text
    assert "event: complete" in canvas
    assert httpx.head(re.search('"url": "([^"]*)"', canvas)[1]).status_code == 200
    for text in (uploaded.text, canvas, httpx.get(address).text, httpx.get(f"{address}config").text):
        assert str(Path.cwd()) not in text
        assert str(model.restored.path.parent) not in text


def test_drawing_saving_stopping_and_filling_work_in_a_browser(chromium, address, model, tmp_path):
    Image.new("RGB", (16, 16), (200, 30, 90)).save(tmp_path / "picture.png")
    with visit(chromium, address) as seen:
        page = seen.page

        def button(name: str) -> Any:
            return page.get_by_role("button", name=name, exact=True).locator("visible=true")

        def images(n: int) -> np.ndarray:
            with page.expect_download() as saving:
                page.get_by_role("link", name="save pictures and settings").locator("visible=true").click()
            with zipfile.ZipFile(saving.value.path()) as file:
                return np.stack([np.asarray(Image.open(io.BytesIO(file.read(f"images/0{i}.png")))) for i in range(n)])

        page.get_by_label("seed", exact=True).fill("7")
        page.get_by_label("steps (0: the sampler's)").fill("2")
        page.get_by_label("images", exact=True).locator("visible=true").fill("3")
        button("Draw").click()
        assert (images(3) == as_array(model.sample(3, seed=7, steps=2))).all()

        page.get_by_label("steps (0: the sampler's)").fill("1000")
        button("Draw").click()
        page.get_by_text("of 1000").wait_for()
        button("Stop").click()
        page.get_by_text("stopped", exact=True).wait_for()

        page.get_by_label("steps (0: the sampler's)").fill("2")
        page.get_by_role("tab", name="Fill a part").click()
        with page.expect_response(re.compile("/upload$")):  # by the canvas, which then has the picture
            with page.expect_file_chooser() as chooser:
                page.get_by_text("Click to Upload").locator("visible=true").click()
            chooser.value.set_files(tmp_path / "picture.png")
        canvas = page.locator("canvas").locator("visible=true").first.bounding_box()
        page.mouse.move(canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2)
        page.mouse.down()
        page.mouse.move(canvas["x"] + canvas["width"] / 2 + 40, canvas["y"] + canvas["height"] / 2, steps=5)
        page.mouse.up()
        button("Fill").click()
        known = (images(4) == (200, 30, 90)).all(axis=-1)
        assert known[:, [0, -1]].all()
        assert not known.all(axis=(1, 2)).any()
        assert {request.split("/")[2] for request in seen.requests if request.startswith("http")} == {
            address.split("/")[2]
        }
        assert seen.grave == []
