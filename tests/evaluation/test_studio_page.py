"""The studio's page over HTTP: it draws, stops and saves, and keeps sessions apart."""

import base64
import html
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio", reason="the studio's page needs gradio: pip install 'diffusion-experiments[studio]'")
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import diffusion
from diffusion.evaluation import studio_page
from diffusion.evaluation.studio import training_images
from tests.support.composing import train

COMMON = (4, "heun", 3, "as usual", "as usual", "run", 0, "as usual")  # the seed, the sampler, its steps, …


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("somewhere") / "run"
    train([*tiny, "trainer.max_steps=2", "samples.n=0"], folder)
    return diffusion.load(folder, device="cpu")


@pytest.fixture(scope="module")
def address(model):
    patch = pytest.MonkeyPatch()
    patch.setattr(Image, "ID", [*Image.ID])
    patch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    page = studio_page.build(model.restored, model.device, training_images(model.restored))
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **studio_page.options())
    yield url
    page.close()
    patch.undo()


@pytest.fixture
def client(address) -> Client:
    return Client(address, verbose=False)


def saved(words: str) -> tuple[str, np.ndarray]:
    """The command, and the images of the archive."""
    command = html.unescape(re.search("<pre[^>]*>(.*)</pre>", words)[1])
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(re.search('zip;base64,([^"]*)', words)[1]))) as file:
        names = sorted(name for name in file.namelist() if name.startswith("images/"))
        return command, np.stack([np.asarray(Image.open(io.BytesIO(file.read(name)))) for name in names])


def as_array(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def test_two_samplers_draw_beside_each_other_and_are_saved(client, model):
    one, words, other, others = client.predict("ddim", 2, *COMMON, api_name="/draw")
    for picture, said, sampler in ((one, words, "heun"), (other, others, "ddim")):
        assert picture.count("data:image/png") == 2  # the images, and beside the nearest of the training
        assert picture.count("data:image/gif") == 1
        command, images = saved(said)
        assert f"sampler={sampler}" in command
        assert (images == as_array(model.sample(2, sampler, seed=4, steps=3))).all()
        assert str(Path(model.restored.path).parents[2]) not in picture + said


def test_a_picture_is_varied_and_filled(client, model, tmp_path):
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
    assert Image.open(canvas["background"]).size == (384, 384)
    painted: dict[str, Any] = {
        "background": None,
        "layers": [handle_file(str(tmp_path / "layer.png"))],
        "composite": None,
    }
    command, images = saved(client.predict(file, painted, "repaint", 2, 2, *COMMON, api_name="/fill")[1])
    assert "inpainting.passes=2 image=picture.png mask=mask.png" in command
    assert (images[:, :, :4] == (200, 30, 90)).all()
    assert (images[:, :, 4:] != (200, 30, 90)).any()


def test_between_two_noises(client, model):
    command, images = saved(client.predict(0, 1, 3, *COMMON, api_name="/between")[1])
    own = (4, "run", 0, *COMMON[3:])
    assert "steps" not in saved(client.predict(0, 1, 3, *own, api_name="/between")[1])[0]
    assert "interpolate=[0,1]" in command
    assert (images == as_array(model.interpolate(0, 1, 3, sampler="heun", steps=3))).all()


def test_a_session_stops_its_own_drawing_only(client, address):
    job = client.submit("none", 1, 4, "ddim", 1000, *COMMON[3:], api_name="/draw")
    while not job.outputs():
        pass
    assert "step" in job.outputs()[-1][1]
    assert Client(address, verbose=False).predict(api_name="/stop") == "nothing is being drawn"
    assert client.predict(api_name="/stop") == "stopping after this step"
    assert job.result()[1] == "stopped"


def test_what_cannot_be_used_is_refused_without_a_path(client, tmp_path):
    Path(tmp_path, "text.png").write_text("no picture")
    for call, said in (
        (
            (handle_file(str(tmp_path / "text.png")), 0.6, 2, *COMMON, "/vary"),
            "image=text.png: not an image in a known",
        ),
        ((None, 0.6, 2, *COMMON, "/vary"), "upload a picture first"),
        (("none", 99, *COMMON, "/draw"), "99"),
    ):
        *values, name = call
        with pytest.raises(AppError) as refused:
            client.predict(*values, api_name=name)
        assert said in str(refused.value)
        assert "/tmp" not in str(refused.value)


def test_decoders_of_other_formats_are_left_out(address):
    assert "EPS" not in Image.ID
    assert "PNG" in Image.ID
    assert Image.MAX_IMAGE_PIXELS <= studio_page.PIXELS
