"""The studio: its page draws over HTTP what the commands that it shows reproduce, and it stops and refuses."""

import io
import shlex
import threading
from typing import Any

import anyio
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
from diffusion.pixels import grid
from diffusion.studio import __main__ as studio
from diffusion.studio import page as pages

FORM = (4, "heun", 3, "", "", "run", None, "")  # the seed, the sampler, its steps, …
NAMES = (
    "seed", "sampler", "sampler.steps", "grid@sampler.grid", "threshold@sampler.threshold", "guidance",
    "guidance.scale", "label",
)  # fmt: skip
PICTURE = np.arange(3 * 64, dtype=np.uint8).reshape(8, 8, 3)
LONG = (4, "ddim", 1000, *FORM[3:])


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
    "fill": ("edit", {"image": painted(RIGHT), "inpainting": "repaint", "n": 2}),
}


def run(page: pages.Page, command: str, values: dict[str, Any], form: tuple[Any, ...] = FORM) -> Any:
    return page.run(command, {**values, **dict(zip(NAMES, form, strict=True))})


@pytest.mark.parametrize("name", DRAWN)
def test_the_shown_command_reproduces_the_images(command, page, tmp_path, name):
    Image.fromarray(PICTURE).save(tmp_path / "PICTURE.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[RIGHT] = 255
    Image.fromarray(mask).save(tmp_path / "MASK.png")
    *steps, (picture, line) = run(page, *DRAWN[name])
    assert [words for _, words in steps][:2] == ["step 1", "step 2"]
    _, drawing, *words = shlex.split(line)
    words = [word.replace("PICTURE", "PICTURE.png").replace("MASK", "MASK.png") for word in words]
    status, out, err = command(drawing, [*words, "hydra.run.dir=out", "device=cpu"])
    assert status == 0, out + err
    with np.load("out/images.npz") as drawn:
        images = torch.from_numpy(drawn["images"]).permute(0, 3, 1, 2)
    assert (np.asarray(grid(images, large=True)) == np.asarray(picture)).all()
    if name == "fill":
        assert (images[:, :, :, :4] == torch.from_numpy(PICTURE).permute(2, 0, 1)[:, :, :4]).all()


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
    thread = threading.Thread(target=lambda: found.extend(run(page, "sample", {"n": 1}, (3, "mine", None, *FORM[3:]))))
    thread.start()
    thread.join()
    assert "--config-dir" in found[-1][1]
    expected = grid(model.sample(1, "heun", seed=3, steps=2), large=True)
    assert (np.asarray(found[-1][0]) == np.asarray(expected)).all()


def test_a_picture_that_is_not_there_is_asked_for(page):
    for given in (None, {**painted(RIGHT), "layers": [np.zeros((8, 8, 4))]}):
        with pytest.raises(pages.gr.Error):
            [*run(page, "edit", {"image": given, "n": 1})]


def test_the_page_draws_over_http_and_refuses_other_values(model, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert anyio.open_file  # imported here, because Python 3.11 may fail to compile in a thread of the server
    blocks = pages.build(model.restored, model.device)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", ssr_mode=False)
    try:
        client = Client(url, verbose=False, download_files=False)
        drawn, line = client.predict(2, *FORM, api_name="/draw")
        picture = np.asarray(Image.open(io.BytesIO(httpx.get(drawn["url"]).content)).convert("RGB"))
        assert (picture == np.asarray(grid(model.sample(2, "heun", seed=4, steps=3), large=True))).all()
        assert "sampler=heun" in line
        Image.fromarray(PICTURE).save(tmp_path / "picture.png")
        file = handle_file(str(tmp_path / "picture.png"))
        assert "strength=0.5" in client.predict(file, 0.5, 2, *FORM, api_name="/vary")[1]
        for values in ((99, *FORM), (1, 4, "ddim ckpt=x", *FORM[2:]), (1, *FORM[:6], "<b>", "")):
            with pytest.raises(AppError):
                client.predict(*values, api_name="/draw")
        with pytest.raises(AppError):
            client.predict(None, 0.6, 2, *FORM, api_name="/vary")
    finally:
        blocks.close()


def test_the_studio_is_served_on_this_machine_only_unless_a_host_is_given(two_steps, monkeypatch, capsys):
    launched = []
    monkeypatch.setattr("gradio.Blocks.launch", lambda self, **options: launched.append(options))
    for words, host in (([], "127.0.0.1"), (["--host", "0.0.0.0"], "0.0.0.0")):
        assert studio.main([f"ckpt={two_steps}", "--device", "cpu", *words]) == 0
        assert (launched[-1]["server_name"], launched[-1]["share"]) == (host, False)
    monkeypatch.setattr(studio, "find_spec", lambda name: None)
    assert studio.main(["ckpt=nowhere"]) == 2
    assert "pip install" in capsys.readouterr().err
