"""Folders of diffusers' pipelines: what we write draws the same there, and what anybody wrote is read as data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stand_ins import ReplayStreams
from torch import Tensor, nn

from diffusion.checkpoint import pipeline
from diffusion.checkpoint.restore import Restored, restore
from diffusion.config.build import make
from diffusion.config.composition import composed, plain
from diffusion.process.denoiser import Denoiser

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

UNET = ["model=unet_tiny", "model.channels=[8,16]", "model.attention=[false,true]", "model.groups=4"]
ADM = ["model=unet_adm_tiny", "model.channels=[8,16]", "model.attention=[false,true]", "model.groups=4",
       "model.head_dim=8"]  # fmt: skip
DIT = ["model=dit_tiny", "model.width=16", "model.depth=2", "model.heads=2"]
ANCESTRAL = ["sampler=ancestral", "sampler.steps=10"]
NETWORKS = {
    "unet": UNET,
    "unet_classes": [*UNET, "model.classes=3", "model.head_dim=4"],
    "adm": ADM,
    "adm_classes": [*ADM, "model.classes=3"],
    "dit": DIT,
    "dit_classes": [*DIT, "model.classes=3"],
}
LEARNED = [*UNET, "model.out_channels=6", *ANCESTRAL, "variance@sampler.variance=learned_range",
           "grid@sampler.grid=leading"]  # fmt: skip
RECIPES = {  # what the scheduler's file says
    "ddim": [],
    "ddim_leading": ["grid@sampler.grid=leading", "sampler.steps=7", "sampler.eta=0.5"],
    "ddim_not_clipped": ["prediction=v", "sampler.threshold=null", "sampler.eta=1"],
    "ddim_dynamic": ["threshold@sampler.threshold=dynamic", "schedule=scaled_linear"],
    "zero_snr": ["schedule=zero_snr", "prediction=v"],
    "sigmoid": ["schedule=sigmoid", "prediction=x0"],
    "table": ["schedule=table", "schedule.betas=[1e-4,3e-3,0.015]"],
    "ancestral": ANCESTRAL,
    "ancestral_large": [*ANCESTRAL, "variance@sampler.variance=fixed_large", "grid@sampler.grid=leading"],
    "ancestral_linspace": [*ANCESTRAL, "grid@sampler.grid=linspace", "schedule=cosine", "prediction=v"],
    "ancestral_learned": LEARNED,
}


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def network_of(node: dict[str, Any]) -> nn.Module:
    """With weights drawn at random, so that every path has an effect."""
    network: nn.Module = make(node, "model")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + 0.5 * (parameter == 1))
    return network.eval()


def model_of(*overrides: str) -> Restored:
    """A model that was never trained, of the recipe."""
    words = ["data.resolution=8", "sampler.steps=10", *overrides]
    words = words if any(word.startswith("model=") for word in words) else [*UNET, *words]
    config = plain(composed("train", ["name=test", *words]))
    parts = make(config["schedule"], "schedule"), make(config["prediction"], "prediction")
    denoiser = Denoiser(network_of(config["model"]), *parts).requires_grad_(False)
    labels = {name: 1 + i for i, name in enumerate("abc"[: config["model"]["classes"]])}
    return Restored(denoiser, config, Path("x.ckpt"), 7, 2, "ema", {}, labels)


def written(model: Restored, folder: Path) -> Path:
    sampler = make(model.config["sampler"], "sampler")
    about = model.config, model.step, model.epoch, model.weights, model.labels
    pipeline.write(folder, model.denoiser, sampler, *about)
    return folder


def as_others(folder: Path) -> Path:
    """The folder without what only we write."""
    file = pipeline.weights_file(folder)
    save_file(load_file(file), file)
    return folder


def draws(n: int, side: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(2, 3, side, side, generator=generator) for _ in range(n)]


def ours(model: Restored, noise: list[Tensor], **given: Tensor) -> Tensor:
    sampler = make(model.config["sampler"], "sampler")
    images: Tensor = sampler(model.denoiser, noise[0], ReplayStreams(*noise[1:]), **given)
    return images


def theirs(folder: Path, model: Restored, noise: list[Tensor], patch: pytest.MonkeyPatch, **given: Tensor) -> Tensor:
    """What diffusers draws from the folder, by the rules of its pipelines."""
    without = {"vae": None} if (folder / "transformer").exists() else {}
    loaded = diffusers.DiffusionPipeline.from_pretrained(folder, **without)
    queue = list(noise[1:])
    for name in ("ddim", "ddpm"):
        patch.setattr(f"diffusers.schedulers.scheduling_{name}.randn_tensor", lambda *a, **k: queue.pop(0))
    network = loaded.transformer if hasattr(loaded, "transformer") else loaded.unet
    node, scheduler, x = model.config["sampler"], loaded.scheduler, noise[0]
    more = {"eta": node["eta"], "use_clipped_model_output": True} if "eta" in node else {}
    scheduler.set_timesteps(node["steps"])
    with torch.no_grad():
        for t in scheduler.timesteps:
            out = network(x, t.expand(2), **given).sample
            x = scheduler.step(out, t, x, **more).prev_sample
    return x


@pytest.mark.parametrize("name", NETWORKS)
def test_diffusers_draws_our_images_with_our_networks(name: str, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    model = model_of(*NETWORKS[name])
    folder, noise = written(model, tmp_path / "x"), draws(1)
    classes = torch.tensor([2, 0])
    given = {"classes": classes} if model.labels else {}
    labels = {"class_labels": classes} if model.labels else {"class_labels": 0 * classes} if name == "dit" else {}
    images = ours(model, noise, **given)
    assert images.std() > 0.1
    torch.testing.assert_close(theirs(folder, model, noise, patch, **labels), images, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_diffusers_draws_our_images_with_our_samplers(name: str, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    model = model_of(*RECIPES[name])
    folder, noise = written(model, tmp_path / "x"), draws(12)
    images = ours(model, noise)
    assert images.std() > 0.1
    torch.testing.assert_close(theirs(folder, model, noise, patch), images, rtol=0, atol=1e-4)
    for other in (restore(folder), restore(as_others(folder))):
        same = replace(other, config=model.config)
        torch.testing.assert_close(ours(same, noise), images, rtol=0, atol=1e-4)
        node = {**other.config["sampler"], "steps": 0, "eta": 0}
        assert node == {**model.config["sampler"], "steps": 0, "eta": 0}


def test_the_call_that_is_printed_draws_our_images(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    model, noise = model_of(), draws(1)
    about = model.config, model.step, model.epoch, model.weights, model.labels
    call = pipeline.write(tmp_path / "x", model.denoiser, make(model.config["sampler"], "sampler"), *about)
    patch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *a, **k: noise[0])
    call = call.removesuffix(")") + ", batch_size=2, output_type='np')"
    images = eval(call, {"DiffusionPipeline": diffusers.DiffusionPipeline}).images
    expected = (ours(model, noise) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(torch.tensor(images), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_that_we_wrote_is_the_model(name: str, tmp_path: Path) -> None:
    model = model_of(*NETWORKS[name])
    back = restore(written(model, tmp_path / "x"))
    assert (back.step, back.epoch, back.weights, back.labels) == (7, 2, "ema", model.labels)
    assert {part: back.config[part] for part in ("model", "schedule", "prediction", "sampler", "data", "seed")} == {
        part: model.config[part] for part in ("model", "schedule", "prediction", "sampler", "data", "seed")
    }
    expected = model.denoiser.network.state_dict()
    state = back.denoiser.network.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    assert back.source["checkpoint"]["path"] == str(tmp_path / "x")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_of_others_is_read_without_what_only_we_write(name: str, tmp_path: Path) -> None:
    model, noise = model_of(*NETWORKS[name]), draws(1)
    back = restore(as_others(written(model, tmp_path / "x")))
    given = {"classes": torch.tensor([2, 0])} if model.labels else {}
    same = replace(back, config=model.config)  # the number of steps is not in the folder
    torch.testing.assert_close(ours(same, noise, **given), ours(model, noise, **given), rtol=0, atol=1e-4)
    state = back.denoiser.network.state_dict()
    for key, value in model.denoiser.network.state_dict().items():
        assert torch.equal(state[key][: len(value)], value)
    assert back.shape == (3, 8, 8)
    rows = 3 if name.startswith("dit") else 4  # a U-Net's row for "no class" is one of a class, as far as one can tell
    assert [*back.labels] == ([*map(str, range(rows))] if model.labels else [])
