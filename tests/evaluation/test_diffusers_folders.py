"""Folders of diffusers' pipelines: ours give the same samples in diffusers, and those of others are read as data."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from networks import filled
from safetensors.torch import load_file, save_file
from stand_ins import ReplayStreams
from torch import Tensor

import diffusion
from diffusion.checkpoint.find import of_run
from diffusion.checkpoint.restore import Restored, restore
from diffusion.config.build import make
from diffusion.config.choices import composed
from diffusion.doors import diffusers_folder
from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser
from diffusion.recipe.facts import Facts

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

SMALL = ["model.channels=[8,16]", "model.attention=[false,true]", "model.groups=4"]
UNET = ["model=unet_tiny", *SMALL]
ANCESTRAL = ["sampler=ancestral", "sampler.steps=10"]
LEADING = "grid@sampler.grid=leading"
RECIPES = {
    "unet with classes, x0": [*UNET, "model.classes=3", "model.head_dim=4", "schedule=sigmoid", "prediction=x0"],
    "unet with diffusers' settings": [*UNET, "model.norm_eps=0.1", "model.down_padding=1", "model.frequency_shift=0",
                                      "model.cosines_first=true", LEADING, "sampler.steps=7", "sampler.eta=0.5"],
    "not clipped": ["prediction=v", "sampler.threshold=null", "sampler.eta=1", "schedule=zero_snr"],
    "fixed_large": [*ANCESTRAL, "variance@sampler.variance=fixed_large", LEADING],
    "fixed_small": [*ANCESTRAL, "schedule=cosine", "prediction=v"],
}  # fmt: skip


def model_of(*overrides: str) -> Restored:
    """An untrained model of the recipe."""
    words = ["data.resolution=8", "sampler.steps=10", *overrides]
    words = words if any(word.startswith("model=") for word in words) else [*UNET, *words]
    config = composed("train", ["name=test", *words])
    parts = make(config["schedule"], "schedule"), make(config["prediction"], "prediction")
    denoiser = Denoiser(filled(make(config["model"], "model")), *parts).requires_grad_(False)
    labels = {name: 1 + i for i, name in enumerate("abc"[: config["model"]["classes"]])}
    return Restored(denoiser, config, Facts(), Path("x.ckpt"), 7, 2, "ema", {}, labels)


def written(model: Restored, folder: Path) -> Path:
    diffusers_folder.write(folder, model)
    return folder


def draws(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(n)]


def ours(model: Restored, noise: list[Tensor], **given: Tensor) -> Tensor:
    images: Tensor = make(model.config["sampler"], "sampler")(
        model.denoiser, noise[0], ReplayStreams(*noise[1:]), **given
    )
    return images


def theirs(folder: Path, model: Restored, noise: list[Tensor], patch: pytest.MonkeyPatch, **given: Tensor) -> Tensor:
    """The samples that diffusers draws from the folder, by the rules of its pipelines."""
    loaded = diffusers.DiffusionPipeline.from_pretrained(folder)
    queue = list(noise[1:])
    for name in ("ddim", "ddpm"):
        patch.setattr(f"diffusers.schedulers.scheduling_{name}.randn_tensor", lambda *a, **k: queue.pop(0))
    network, node, scheduler, x = loaded.unet, model.config["sampler"], loaded.scheduler, noise[0]
    more = {"eta": node["eta"], "use_clipped_model_output": True} if "eta" in node else {}
    scheduler.set_timesteps(node["steps"])
    with torch.no_grad():
        for t in scheduler.timesteps:
            out = network(x, t.expand(2), **given).sample
            x = scheduler.step(out, t, x, **more).prev_sample
    return x


@pytest.mark.parametrize("name", RECIPES)
def test_our_models_draw_the_same_images_in_diffusers(name: str, tmp_path: Path, monkeypatch) -> None:
    """And here after reading the folder, with our recipe (exactly the model) and without it (the same images)."""
    model, noise, classes = model_of(*RECIPES[name]), draws(12), torch.tensor([2, 0])
    folder = written(model, tmp_path / "x")
    given = {"classes": classes} if model.labels else {}
    labels = {"class_labels": classes} if model.labels else {}
    images = ours(model, noise, **given)
    assert images.std() > 0.1
    torch.testing.assert_close(theirs(folder, model, noise, monkeypatch, **labels), images, rtol=0, atol=1e-4)
    back = restore(folder)
    assert (back.step, back.epoch, back.weights, back.labels) == (7, 2, "ema", model.labels)
    assert all(back.config[part] == model.config[part] for part in ("model", "schedule", "sampler", "data"))
    expected = model.denoiser.network.state_dict()
    assert list(expected) == list(back.denoiser.network.state_dict())
    assert all(torch.equal(back.denoiser.network.state_dict()[key], value) for key, value in expected.items())
    (folder / diffusers_folder.RECIPE).unlink()
    foreign = restore(folder)
    assert {**foreign.config["sampler"], "steps": 0, "eta": 0} == {**model.config["sampler"], "steps": 0, "eta": 0}
    same = replace(foreign, config=model.config)
    torch.testing.assert_close(ours(same, noise, **given), images, rtol=0, atol=1e-4)
    assert foreign.shape == (3, 8, 8)


REFUSED = {
    "another network": ["model=dit_tiny"],
    "continuous": ["schedule=vp"],
    "sampler": ["sampler=heun"],
    "grid": ["grid@sampler.grid=karras"],
    "adm": ["model=unet_adm_tiny"],
    "seven steps": ["sampler.steps=7"],
    "noise in the last step": [*ANCESTRAL, "variance@sampler.variance=fixed_large"],
    "learned": [*UNET, "model.out_channels=6", *ANCESTRAL, "variance@sampler.variance=learned_range", LEADING],
    "dynamic threshold": ["threshold@sampler.threshold=dynamic"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_models_are_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        written(model_of(*REFUSED[name]), tmp_path / "x")
    assert not any(tmp_path.iterdir())


def test_a_folder_from_the_export_command_can_be_loaded(command, two_steps: Path, monkeypatch) -> None:
    shutil.copytree(two_steps, "run")
    words = ["run", "--format", "diffusers", "--sampler", "ddim sampler.steps=5"]
    status, out, err = command("export", words)
    assert (status, err) == (0, "")
    folder, call = (line.strip() for line in out.splitlines())
    model, exported = (diffusion.load(path, device="cpu") for path in ("run", folder))
    images = model.sample(2, sampler="ddim", steps=5, progress=False)
    assert torch.equal(exported.sample(2, progress=False), images)
    noise = draws(1)
    monkeypatch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *a, **k: noise[0])
    call = call.removesuffix(")") + ", batch_size=2, output_type='np')"
    drawn = torch.tensor(eval(call, {"DiffusionPipeline": diffusers.DiffusionPipeline}).images)
    expected = (ours(restore(folder), noise) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-4)
    assert command("export", words)[0] == 2  # the folder is not empty


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = written(model_of(), tmp_path_factory.mktemp("sound") / "x")
    (folder / diffusers_folder.RECIPE).unlink()
    return folder


def change(file: str, **values: Any) -> Callable[[Path], object]:
    """A function that changes values of a JSON file."""
    return lambda folder: (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))


def tensors(**values: Tensor) -> Callable[[Path], object]:
    def changed(folder: Path) -> None:
        file = folder / diffusers_folder.WEIGHTS
        save_file(load_file(file) | values, file)

    return changed


def pickled(folder: Path) -> None:
    (folder / diffusers_folder.WEIGHTS).rename(folder / "unet/diffusion_pytorch_model.bin")


NET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
HOSTILE: dict[str, Callable[[Path], object]] = {
    "not JSON": lambda folder: (folder / NET).write_text("{"),
    "a pickle": pickled,
    "a module of another library": change("model_index.json", unet=["os", "system"]),
    "another scheduler": change(SCHEDULER, _class_name="PNDMScheduler"),
    "another spacing": change(SCHEDULER, timestep_spacing="trailing", steps_offset=1),
    "100 steps": change(SCHEDULER, num_train_timesteps=100, trained_betas=None),
    "another shape": tensors(**{"conv_out.bias": torch.zeros(4)}),
    "truncated": lambda folder: (folder / diffusers_folder.WEIGHTS).write_bytes(b"x" * 100),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_invalid_folder_gives_a_one_line_error(name: str, sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(sound, folder)
    HOSTILE[name](folder)
    with pytest.raises(UserError, match=str(folder)):
        restore(of_run(folder))


def test_a_recipe_can_only_build_classes_listed_in_conf(tmp_path: Path) -> None:
    file = written(model_of(), tmp_path / "x") / diffusers_folder.RECIPE
    found = json.loads(file.read_text())
    model = {"model": {"_target_": "os.system", "command": "true"}}
    file.write_text(json.dumps(found | {"config": json.dumps(yaml.safe_load(found["config"]) | model)}))
    with pytest.raises(UserError, match=r"os\.system"):
        restore(tmp_path / "x")


LIKE_DDPM = {
    "norm_eps": 1e-6, "downsample_padding": 0, "freq_shift": 1, "flip_sin_to_cos": False, "attention_head_dim": None,
}  # fmt: skip


@pytest.mark.parametrize("settings", [LIKE_DDPM, {}], ids=["google/ddpm-cifar10-32", "default"])
def test_a_folder_written_by_diffusers_is_restored(settings: dict[str, Any], tmp_path: Path, monkeypatch) -> None:
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16), "norm_num_groups": 4,
    }  # fmt: skip
    network = diffusers.UNet2DModel(sample_size=8, num_class_embeds=3, **{**blocks, **settings})
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler(variance_type="fixed_large")).save_pretrained(tmp_path)
    model = restore(tmp_path)
    assert (model.shape, model.labels, model.weights) == ((3, 8, 8), {"0": 1, "1": 1, "2": 1}, "raw")
    model.config["sampler"]["steps"] = 10
    noise, classes = draws(12), torch.tensor([2, 0])
    images = ours(model, noise, classes=classes)
    assert images.std() > 0.1
    made = theirs(tmp_path, model, noise, monkeypatch, class_labels=classes)
    torch.testing.assert_close(made, images, rtol=0, atol=1e-4)
