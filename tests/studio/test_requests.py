"""The command line reproduces the studio's images; user values reach the studio only within bounds."""

import io
import json
import shlex
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.checkpoint.find import trained
from diffusion.checkpoint.restore import Restored, restore
from diffusion.config import composition
from diffusion.config.composition import choice, composed
from diffusion.errors import UserError
from diffusion.studio import __main__ as command_module
from diffusion.studio import requests
from diffusion.studio.requests import Request, Result, Stopped, draw, stream, words_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(two_steps) -> Restored:
    return restore(trained(str(two_steps)), "ema")


PICTURE = torch.arange(3 * 64).reshape(3, 8, 8).to(torch.uint8)
FILL = (torch.arange(8) >= 4).expand(8, 8)

REQUESTS = [
    Request(
        "sample", {"n": 3, "seed": 5, "sampler": "heun", "sampler.steps": 3, "grid": "karras", "threshold": "clip"}
    ),
    Request("sample", {"n": 2, "sampler": "run", "guidance": "none", "label": None}),
    Request("edit", {"interpolate": [3, 4], "frames": 3}),
    Request("edit", {"n": 2, "strength": 0.5, "seed": 1}, PICTURE),
    Request("edit", {"n": 2, "inpainting": "repaint", "inpainting.passes": 2}, PICTURE, FILL),
    Request("edit", {"n": 2, "inpainting": "split_gibbs", "inpainting.rounds": 2}, PICTURE, FILL),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_recorded_command_reproduces_the_images(command, two_steps, model, tmp_path, request_):
    seen = []
    result = draw(model, CPU, request_, lambda k, steps, images: seen.append((k, steps, len(images))))
    with zipfile.ZipFile(io.BytesIO(result.archive())) as file:
        file.extractall(tmp_path)
        record = json.loads(file.read(f"{request_.command}.json"))
        saved = [
            np.asarray(Image.open(io.BytesIO(file.read(f"images/{i:02d}.png")))) for i in range(len(result.images))
        ]
    assert record == result.record
    python, _, module, ckpt, *words = shlex.split(record["command"])
    assert (python, module, ckpt) == (
        "python", f"diffusion.{request_.command}", "ckpt=run/checkpoints/last.ckpt"
    )  # fmt: skip
    assert f"seed={record['seed']}" in words
    status, out, err = command(request_.command, [f"ckpt={two_steps}", *words, "hydra.run.dir=out", "device=cpu"])
    assert status == 0, out + err
    with np.load("out/images.npz") as drawn:
        assert (drawn["images"] == np.stack(saved)).all()
        assert (drawn["images"] == result.images.permute(0, 2, 3, 1).numpy()).all()
    steps = seen[0][1]
    assert seen == [(k, steps, len(result.images)) for k in range(1, steps + 1)]
    assert len(result.film) == steps
    assert str(two_steps.parent) not in json.dumps(record)


def test_known_pixels_are_kept_and_concurrent_requests_do_not_interfere(model):
    alone = [draw(model, CPU, request).images for request in REQUESTS]
    assert torch.equal(alone[4][:, :, :, :4], PICTURE[:, :, :4].expand(2, 3, 8, 4))
    with ThreadPoolExecutor(6) as pool:
        together = [*pool.map(lambda request: draw(model, CPU, request).images, REQUESTS)]
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_drawing_reports_its_steps_and_can_be_stopped(model):
    stop = threading.Event()
    *steps, result = stream(model, CPU, REQUESTS[0], stop)
    assert [k for k, _, _ in steps] == [1, 2, 3]
    assert isinstance(result, Result)
    before = threading.active_count()
    stop = threading.Event()
    running = stream(model, CPU, Request("sample", {"n": 1, "sampler": "ddim", "sampler.steps": 1000}), stop)
    assert next(running)[0] == 1
    stop.set()
    with pytest.raises(Stopped):
        for _ in running:
            pass
    closed = stream(
        model, CPU, Request("sample", {"n": 1, "sampler": "ddim", "sampler.steps": 1000}), threading.Event()
    )
    next(closed)
    closed.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"n": 17}, "n=17: expected a number from 1 to 16"),
        ({"n": "1 ckpt=x"}, "n='1 ckpt=x': expected a number"),
        ({"n": True}, "n=True: expected a number"),
        ({"sampler.steps": float("nan")}, "sampler.steps=nan: expected a number"),
        ({"strength": 2}, "strength=2: expected a number from 0.01 to 1"),
        ({"seed": -1}, "seed=-1: expected a number"),
        ({"interpolate": [0, "${oc.env:HOME}"]}, "expected a number"),
        ({"sampler": "ddim ckpt=x"}, "sampler='ddim ckpt=x': unknown choice"),
        ({"sampler": "../sampler/ddim"}, "unknown choice"),
        ({"grid": "run"}, "grid='run': unknown choice"),
        ({"inpainting": "run"}, "inpainting='run': unknown choice"),
        ({"precision": "32-true seed=1"}, "precision='32-true seed=1': unknown choice"),
        ({"label": "${oc.env:HOME}"}, "label='${oc.env:HOME}': unknown class"),
        ({"guidance.ckpt": "x"}, "guidance.ckpt: the studio has no such setting"),
        ({"sampler._target_": "os.system"}, "sampler._target_: the studio has no such setting"),
    ],
)
def test_invalid_user_values_are_refused(values, line):
    with pytest.raises(UserError) as refused:
        words_of(Request("sample", values), {"sky": 3, "water": 4})
    assert line in str(refused.value)


def test_class_names_are_converted_to_numbers():
    assert words_of(Request("sample", {"label": "water"}), {"sky": 3, "water": 4}) == ["label=1"]


def test_classes_whose_numbers_are_names_are_chosen_by_name():
    numbers = {"1": 5, "2": 5, "3": 5}
    assert [words_of(Request("sample", {"label": name}), numbers) for name in numbers] == [
        ["label=0"], ['label="2"'], ['label="3"'],
    ]  # fmt: skip
    assert composed("sample", ["ckpt=x", "name=x", 'label="2"']).label == "2"
    with pytest.raises(UserError, match="label='a b': cannot be chosen, because its number, 0, is the name of a class"):
        words_of(Request("sample", {"label": "a b"}), {"a b": 1, "0": 1})


def test_choices_are_composed_one_at_a_time(monkeypatch):
    """Hydra's state belongs to the whole process."""
    inside: list[str] = []

    def slow(name, overrides):
        inside.append(name)
        assert inside == [name]
        time.sleep(0.05)
        try:
            return compose(name, overrides)
        finally:
            inside.remove(name)

    compose = composition.compose
    monkeypatch.setattr(composition, "compose", slow)
    with ThreadPoolExecutor(3) as pool:
        found = [*pool.map(lambda name: choice("inpainting", name), ["repaint", "split_gibbs", "repaint"])]
    assert found[0] == found[2] != found[1]


def test_the_nearest_training_image_may_be_mirrored(tmp_path):
    class Data:
        splits = {"train": type("Split", (), {"images": torch.stack([PICTURE, 255 - PICTURE, PICTURE // 2])})}  # noqa: RUF012

    near, words = requests.nearest(torch.stack([PICTURE.flip(-1), 250 - PICTURE]), Data())
    assert torch.equal(near[0], PICTURE.flip(-1))
    assert torch.equal(near[1], 255 - PICTURE)
    assert words == ["0 of 255 apart", "5 of 255 apart"]


def test_missing_training_images_are_reported_and_not_shown(model, capsys):
    data = requests.training_images(model)
    assert data is not None
    assert len(data.splits["train"]) > 0
    gone = {**model.config, "data": {**model.config["data"], "root": "nowhere"}}
    assert requests.training_images(replace(model, config=gone)) is None
    assert "nearest training images are not shown: data.root" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "host"), [([], "127.0.0.1"), (["--host", "0.0.0.0"], "0.0.0.0")])
def test_the_studio_is_served_on_this_machine_only_unless_a_host_is_given(words, host, two_steps, monkeypatch):
    gradio = pytest.importorskip("gradio", reason="the studio's page needs gradio")
    launched = []
    monkeypatch.setattr(gradio.Blocks, "launch", lambda self, **options: launched.append(options))
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(Image, "ID", [*Image.ID])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    assert command_module.main([f"ckpt={two_steps}", "--device", "cpu", "--no-nearest", *words]) == 0
    ((options),) = launched
    assert (options["server_name"], options["server_port"], options["share"]) == (host, 7860, False)


def test_without_gradio_a_one_line_error_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(command_module, "find_spec", lambda name: None)
    assert command_module.main(["ckpt=nowhere"]) == 2
    assert capsys.readouterr().err == ("error: the studio needs gradio: pip install 'diffusion-experiments[studio]'\n")
