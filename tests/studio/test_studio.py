"""The studio: its page draws over HTTP what the commands that it shows reproduce, and it stops and refuses."""

import io
import shlex
import socket
import sys
import threading
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="the studio's page needs gradio: pip install -e '.[studio]'")
from gradio_client import Client
from gradio_client.exceptions import AppError

import diffusion
from diffusion.base.pixels import grid
from diffusion.cli import studio
from diffusion.config.choices import searching
from diffusion.sampling.drawing import Drawing
from diffusion.studio import page as pages

FORM = (4, 3, None, "", "heun", "", "", "run")  # the seed, the steps, …
NAMES = (
    "seed", "sampler.steps", "guidance.scale", "label", "sampler", "grid@sampler.grid", "threshold@sampler.threshold",
    "guidance",
)  # fmt: skip
PICTURE = np.arange(3 * 64, dtype=np.uint8).reshape(8, 8, 3)
LONG = (4, 1000, None, "", "ddim", *FORM[5:])


@pytest.fixture(scope="module")
def model(two_steps) -> diffusion.Model:
    return diffusion.load(two_steps, device="cpu")


@pytest.fixture
def page(model) -> pages.Page:
    return pages.Page(model.restored, model.device)


def painted(box: tuple[slice, slice]) -> dict[str, Any]:
    """As the editor returns a picture that is painted over in a box."""
    layer = np.zeros((8, 8, 4), np.uint8)
    layer[box] = 255
    return {"background": PICTURE, "layers": [layer], "composite": PICTURE}


RIGHT = (slice(None), slice(4, None))
DRAWN = {
    "samples": ("sample", {"n": 3}),
    "between": ("edit", {"last": 5, "n": 3}),
    "vary": ("edit", {"image": PICTURE, "strength": 0.5, "n": 2}),
    "fill": ("edit", {"painted": painted(RIGHT), "inpainting": "repaint", "n": 2}),
}


def run(page: pages.Page, command: str, values: dict[str, Any], form: tuple[Any, ...] = FORM) -> Any:
    return page.run(command, {**values, **dict(zip(NAMES, form, strict=True))})


@pytest.mark.parametrize("name", DRAWN)
def test_the_shown_command_reproduces_the_images(ran, page, tmp_path, name):
    Image.fromarray(PICTURE).save(tmp_path / "PICTURE.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[RIGHT] = 255
    Image.fromarray(mask).save(tmp_path / "MASK.png")
    *steps, (picture, _, line) = run(page, *DRAWN[name])
    assert [words for _, words, _ in steps][:2] == ["step 1", "step 2"]
    _, drawing, *words = shlex.split(line)
    words = [word.replace("PICTURE", "PICTURE.png").replace("MASK", "MASK.png") for word in words]
    ran(drawing, [*words, "hydra.run.dir=out", "device=cpu"])
    with np.load("out/images.npz") as drawn:
        images = torch.from_numpy(drawn["arr_0"]).permute(0, 3, 1, 2)
    assert (np.asarray(grid(images, large=True)) == np.asarray(picture)).all()
    if name == "fill":
        assert (images[:, :, :, :4] == torch.from_numpy(PICTURE).permute(2, 0, 1)[:, :, :4]).all()


def test_an_enlarged_picture_is_that_of_the_shown_command(ran):
    """The two bundled models."""
    demo = diffusion.load("demo", device="cpu")
    values = dict(zip(NAMES, (4, 2, None, "", "", "", "", "none"), strict=True)) | {"sampler": "run", "n": 2}
    *_, (picture, _, line) = pages.Page(demo.restored, demo.device).run("sample", values | {"then": "super"})
    ran("sample", [*shlex.split(line)[2:], "hydra.run.dir=out", "device=cpu"])
    with np.load("out/images.npz") as drawn:
        images = torch.from_numpy(drawn["arr_0"]).permute(0, 3, 1, 2)
    assert images.shape == (2, 3, 64, 64)
    assert (np.asarray(grid(images, large=True)) == np.asarray(picture)).all()


def test_closing_stops_after_the_step_and_own_choices_are_known_to_the_servers_threads(model, tmp_path):
    (tmp_path / "conf/sampler").mkdir(parents=True)
    (tmp_path / "conf/sampler/mine.yaml").write_text("defaults: [heun, _self_]\nsteps: 2\n")
    with searching([tmp_path / "conf"]):
        page = pages.Page(model.restored, model.device)
    before = threading.active_count()
    running = run(page, "sample", {"n": 1}, LONG)
    assert next(running)[1] == "step 1"
    running.close()
    assert threading.active_count() == before
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.extend(run(page, "sample", {"n": 1}, (3, None, None, "", "mine", *FORM[5:])))
    )
    thread.start()
    thread.join()
    assert "--config-dir" in found[-1][2]
    expected = grid(model.sample(1, "heun", seed=3, steps=2), large=True)
    assert (np.asarray(found[-1][0]) == np.asarray(expected)).all()


def test_a_picture_that_is_not_there_is_asked_for(page):
    unpainted = {**painted(RIGHT), "layers": [np.zeros((8, 8, 4))]}
    for given, asked in (({"image": None}, "upload"), ({"painted": {**unpainted, "background": None}}, "upload"),
                         ({"painted": unpainted}, "paint")):  # fmt: skip
        with pytest.raises(pages.gr.Error, match=asked):
            [*run(page, "edit", {**given, "n": 1})]


def test_a_large_picture_is_filled_at_its_own_size_and_saturated_pictures_are_told(page, monkeypatch):
    monkeypatch.setattr(Drawing, "saturation", lambda *_: "all are black")
    large = {"background": PICTURE.repeat(30, 0).repeat(30, 1), "layers": [np.zeros((240, 240, 4), np.uint8)]}
    large["layers"][0][:, 120:] = 255
    picture, said, _ = [*run(page, "edit", {"painted": large, "n": 1})][-1]
    assert said == "all are black"
    shown = np.asarray(picture.resize((240, 240), Image.Resampling.NEAREST))
    assert (shown[:, :120] == large["background"][:, :120]).all()


def test_the_page_draws_over_http_and_refuses_other_values(model, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert anyio.open_file  # imported here, because Python 3.11 may fail to compile in a thread of the server
    blocks = pages.build(model.restored, model.device)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", ssr_mode=False)
    try:
        client = Client(url, verbose=False, download_files=False)
        # draw, between, vary, fill; seed, pictures, steps, scale, …
        words = ["", 1, None, 0.6, None, 4, 2, 3, 1, "", "heun", "", "", "run", ""]
        drawn, _, line, history = client.predict(*words, api_name="/draw")
        picture = np.asarray(Image.open(io.BytesIO(httpx.get(drawn["url"]).content)).convert("RGB"))
        assert (picture == np.asarray(grid(model.sample(2, "heun", seed=4, steps=3), large=True))).all()
        assert line.endswith(" seed=4 n=2 sampler.steps=3 sampler=heun")
        assert [each["caption"] for each in history] == ["seed=4 n=2 sampler.steps=3 sampler=heun"]
        for at, value in ((6, 99), (10, "ddim ckpt=x"), (8, "<b>"), (0, "x")):
            with pytest.raises(AppError):
                client.predict(*words[:at], value, *words[at + 1 :], api_name="/draw")
    finally:
        blocks.close()


def test_the_studio_is_served_on_this_machine_only_unless_a_host_is_given(two_steps, monkeypatch, capsys):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    got = []

    def get(blocks):
        names = ("localhost", "rebound.example")
        got.append([httpx.get(blocks.local_url, headers={"Host": name}).status_code for name in names])
        blocks.close()

    monkeypatch.setattr("gradio.Blocks.block_thread", get)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        free = busy.getsockname()[1]
    ports = ("--port", str(free))
    for words in ([], ["--host", "0.0.0.0"]):
        assert studio.main([f"ckpt={two_steps}", "--device", "cpu", *ports, *words]) == 0
        assert capsys.readouterr().out.count(f":{free}/") == 1
    assert got == [[200, 400], [200, 200]]
    assert studio.main([f"ckpt={two_steps}", "--device", "cpu", "--port", "70000"]) == 2
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert studio.main(["ckpt=nowhere"]) == 2
    one, two = capsys.readouterr().err.splitlines()
    assert "--port 70000" in one
    assert "pip install" in two
