"""Folders of diffusers' pipelines: ours give the same samples in diffusers, and others are read as data only."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stand_ins import ReplayStreams
from torch import Tensor, nn

import diffusion
from diffusion.checkpoint import diffusers_folder
from diffusion.checkpoint.find import of_run
from diffusion.checkpoint.provenance import file_hash
from diffusion.checkpoint.restore import Restored, restore
from diffusion.config.build import make
from diffusion.config.composition import composed, plain
from diffusion.errors import UserError
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
    "unet_settings": [*UNET, "model.norm_eps=0.1", "model.down_padding=1", "model.frequency_shift=0",
                      "model.cosines_first=true"],
    "adm_settings": [*ADM, "model.norm_eps=0.1", "model.frequency_shift=1", "model.cosines_first=false"],
    "dit": DIT,
    "dit_classes": [*DIT, "model.classes=3"],
}  # fmt: skip
LEARNED = [*UNET, "model.out_channels=6", *ANCESTRAL, "variance@sampler.variance=learned_range",
           "grid@sampler.grid=leading"]  # fmt: skip
RECIPES = {  # recipe -> the contents of the scheduler's file
    "ddim": [],
    "ddim_leading": ["grid@sampler.grid=leading", "sampler.steps=7", "sampler.eta=0.5"],
    "ddim_not_clipped": ["prediction=v", "sampler.threshold=null", "sampler.eta=1"],
    "ddim_dynamic": ["threshold@sampler.threshold=dynamic", "schedule=scaled_linear"],
    "zero_snr": ["schedule=zero_snr", "prediction=v"],
    "sigmoid": ["schedule=sigmoid", "prediction=x0"],
    "ancestral": ANCESTRAL,
    "ancestral_large": [*ANCESTRAL, "variance@sampler.variance=fixed_large", "grid@sampler.grid=leading"],
    "ancestral_linspace": [*ANCESTRAL, "grid@sampler.grid=linspace", "schedule=cosine", "prediction=v"],
    "ancestral_learned": LEARNED,
}


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def network_of(node: dict[str, Any]) -> nn.Module:
    """A network with random weights, so every path has an effect."""
    network: nn.Module = make(node, "model")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + 0.5 * (parameter == 1))
    return network.eval()


def model_of(*overrides: str) -> Restored:
    """An untrained model of the recipe."""
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
    diffusers_folder.write(folder, model.denoiser, sampler, *about)
    return folder


def as_others(folder: Path) -> Path:
    """The folder without the parts that only we write."""
    file = diffusers_folder.weights_file(folder)
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
    """The samples that diffusers draws from the folder, by the rules of its pipelines."""
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
def test_diffusers_reproduces_samples_of_our_networks(name: str, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    model = model_of(*NETWORKS[name])
    folder, noise = written(model, tmp_path / "x"), draws(1)
    classes = torch.tensor([2, 0])
    given = {"classes": classes} if model.labels else {}
    labels = {"class_labels": classes} if model.labels else {"class_labels": 0 * classes} if name == "dit" else {}
    images = ours(model, noise, **given)
    assert images.std() > 0.1
    torch.testing.assert_close(theirs(folder, model, noise, patch, **labels), images, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_diffusers_reproduces_samples_of_our_samplers(name: str, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
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


def test_the_printed_diffusers_call_reproduces_our_samples(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    model, noise = model_of(), draws(1)
    about = model.config, model.step, model.epoch, model.weights, model.labels
    call = diffusers_folder.write(tmp_path / "x", model.denoiser, make(model.config["sampler"], "sampler"), *about)
    patch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *a, **k: noise[0])
    call = call.removesuffix(")") + ", batch_size=2, output_type='np')"
    images = eval(call, {"DiffusionPipeline": diffusers.DiffusionPipeline}).images
    expected = (ours(model, noise) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(torch.tensor(images), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_folder_is_restored_exactly(name: str, tmp_path: Path) -> None:
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
def test_a_folder_without_our_metadata_can_be_restored(name: str, tmp_path: Path) -> None:
    model, noise = model_of(*NETWORKS[name]), draws(1)
    back = restore(as_others(written(model, tmp_path / "x")))
    given = {"classes": torch.tensor([2, 0])} if model.labels else {}
    same = replace(back, config=model.config)  # the number of steps is not in the folder
    torch.testing.assert_close(ours(same, noise, **given), ours(model, noise, **given), rtol=0, atol=1e-4)
    state = back.denoiser.network.state_dict()
    for key, value in model.denoiser.network.state_dict().items():
        assert torch.equal(state[key][: len(value)], value)
    assert back.shape == (3, 8, 8)
    rows = 3 if name.startswith("dit") else 4  # in a U-Net, nothing distinguishes the row "no class" from a class
    assert [*back.labels] == ([*map(str, range(rows))] if model.labels else [])


REFUSED = {
    "edm2": (["model=edm2_tiny", "prediction=v"], "model: diffusers has no counterpart of EDM2UNet"),
    "jit": (["model=jit_tiny"], "model: diffusers has no counterpart of JiT"),
    "memoir": (["model=unet_memoire"], "model: diffusers has no counterpart of MemoirUNet"),
    "patch": ([*UNET, "model.patch=2"], "model.patch=2: "),
    "mlp": ([*DIT, "model.mlp_ratio=2"], "model.mlp_ratio=2: "),
    "continuous": (["schedule=vp"], "schedule: diffusers has no counterpart of the continuous VP"),
    "flow": (["schedule=flow", "prediction=velocity"], "schedule: diffusers has no counterpart of the continuous Flow"),
    "steps": (["schedule.steps=100"], "schedule.steps=100: "),
    "edm's prediction": (["prediction=edm"], "prediction: diffusers has no counterpart of EDM on a table"),
    "heun": (["sampler=heun"], "sampler: diffusers has no counterpart of Heun on the grid karras; "),
    "karras": (["grid@sampler.grid=karras"], "sampler: diffusers has no counterpart of DDIM on the grid karras; "),
    "linspace": (["grid@sampler.grid=linspace"], "sampler: diffusers has no counterpart of DDIM on the grid linspace"),
    "one step": ([*ANCESTRAL, "grid@sampler.grid=linspace", "sampler.steps=1"], "sampler.steps=1: on the grid lins"),
    "seven steps": (["sampler.steps=7"], "sampler.steps=7: "),
    "large": ([*ANCESTRAL, "variance@sampler.variance=fixed_large"], "sampler: with 10 steps and the variance fixed_l"),
    "learned": ([*UNET, "model.out_channels=6"], "model.out_channels: of diffusers' samplers for U-Nets, only "),
    "not learned": ([*LEARNED, "model.out_channels=3"], "sampler.variance: diffusers' ancestral sampler uses "),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_models_are_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    words, line = REFUSED[name]
    model = model_of(*words)
    with pytest.raises(UserError) as error:
        written(model, tmp_path / "x")
    assert str(error.value).startswith(line)
    assert not (tmp_path / "x").exists()


def test_export_to_a_non_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/mine").write_text("mine")
    with pytest.raises(UserError, match="already exists and is not an empty folder; choose another"):
        written(model_of(), tmp_path / "x")
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["mine"]


def test_a_folder_from_the_export_command_can_be_sampled_and_evaluated(command, tiny: list[str]) -> None:
    train([*tiny, "trainer.max_steps=1", "samples.n=0"], Path("run"))
    status, out, err = command("export", ["run", "--format", "diffusers", "--sampler", "ddim sampler.steps=5"])
    folder = "run/checkpoints/last-diffusers"
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        folder,
        f"  DiffusionPipeline.from_pretrained('{folder}')(num_inference_steps=5, eta=0, use_clipped_model_output=True)",
    ]
    model, exported = (diffusion.load(path, device="cpu") for path in ("run", folder))
    images = model.sample(2, sampler="ddim", steps=5, progress=False)
    assert torch.equal(exported.sample(2, progress=False), images)
    words = [f"ckpt={folder}", "n=4", "device=cpu", "hydra.run.dir=scored", "features=lite0", "baselines=[]"]
    status, out, err = command("evaluate", words)
    assert status == 0, out + err
    (source, *_) = json.loads(Path("scored/scores.json").read_text())
    weights = Path(folder) / "unet/diffusion_pytorch_model.safetensors"
    assert source["checkpoint"] == {"path": folder, "sha256": file_hash(weights)}


@pytest.mark.parametrize("kind", ["safetensors", "web"])
def test_a_sampler_is_refused_where_the_export_would_ignore_it(command, kind: str) -> None:
    status, out, err = command("export", ["run", "--format", kind, "--sampler", "ddim"])
    assert (status, out) == (2, "")
    assert err == f"error: --sampler: a file with --format {kind} keeps the sampler of its run; remove it\n"


def test_a_page_is_not_written_to_a_file_with_another_ending(command, tiny: list[str]) -> None:
    train([*tiny, "trainer.max_steps=1", "samples.n=0"], Path("run"))
    status, out, err = command("export", ["run", "model.safetensors", "--format", "web"])
    assert (status, out, err) == (2, "", "error: model.safetensors: a page ends with .html\n")
    assert not Path("model.safetensors").exists()


@pytest.mark.parametrize("kind", ["diffusers", "web"])
def test_the_export_says_that_it_leaves_out_guidance(command, tiny: list[str], kind: str) -> None:
    train([*tiny, "trainer.max_steps=2", "samples.n=0", "guidance=early", "guidance.step=1"], Path("run"))
    words = ["--sampler", "ddim sampler.steps=5"] if kind == "diffusers" else []
    status, out, err = command("export", ["run", "--format", kind, *words])
    assert status == 0, err
    assert out.splitlines()[-1] == "  it draws without the run's guidance"


def change(file: str, **values: Any) -> Callable[[Path], object]:
    """A function that changes values of a JSON file; ... removes one."""

    def changed(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return changed


def text(file: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(content)


def pickled(folder: Path) -> None:
    file = diffusers_folder.weights_file(folder)
    file.rename(file.with_name("diffusion_pytorch_model.bin"))


def tensors(**values: Tensor) -> Callable[[Path], object]:
    file = "unet/diffusion_pytorch_model.safetensors"
    return lambda folder: save_file(load_file(folder / file) | values, folder / file)


NET, SCHEDULER, INDEX = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "index no JSON": (text(INDEX, "{"), INDEX),
    "index a list": (text(INDEX, "[]"), INDEX),
    "deep": (text(NET, "[" * 100_000), NET),
    "not text": (lambda folder: (folder / NET).write_bytes(b"\xff\xfe\x00"), NET),
    "long": (text(SCHEDULER, json.dumps({"a": "x" * (1 << 20)})), "of at most 1 MiB"),
    "missing config": (lambda folder: (folder / NET).unlink(), NET),
    "missing scheduler": (lambda folder: (folder / SCHEDULER).unlink(), SCHEDULER),
    "missing weights": (lambda folder: diffusers_folder.weights_file(folder).unlink(), "no such file; only safe"),
    "pickle": (pickled, "(diffusion_pytorch_model.bin is a pickle, which could run code)"),
    "no safetensors": (text("unet/diffusion_pytorch_model.safetensors", "x" * 100), "not a readable safetensors file"),
    "vae": (change(INDEX, vae=["diffusers", "AutoencoderKL"]), "vae is ['diffusers', 'AutoencoderKL']; expected"),
    "own code": (change(INDEX, unet=["my_code", "UNet2DModel"]), "unet is ['my_code', 'UNet2DModel']; expected"),
    "condition": (change(INDEX, unet=["diffusers", "UNet2DConditionModel"]), "unet is ['diffusers', 'UNet2DCond"),
    "no network": (change(INDEX, unet=...), "it names neither unet nor transformer"),
    "another class": (change(NET, _class_name="UNet1DModel"), "_class_name is 'UNet1DModel'"),
    "huge channels": (change(NET, block_out_channels=[1 << 40, 1 << 40]), "block_out_channels is [1099"),
    "wide": (change(NET, block_out_channels=[65536, 65536], norm_num_groups=1), "the weights do not fit this network"),
    "huge blocks": (change(NET, layers_per_block=100), "layers_per_block is 100; expected fewer"),
    "huge images": (change(NET, sample_size=1 << 30), "sample_size is 1073741824"),
    "no size": (change(NET, sample_size=None), "sample_size is None"),
    "odd size": (change(NET, sample_size=9), "multiples of 2"),
    "no width": (change(NET, sample_size=[8, 0]), "sample_size is 0"),
    "text": (change(NET, layers_per_block="2"), "layers_per_block is '2'"),
    "truth": (change(NET, layers_per_block=True), "layers_per_block is True"),
    "nan": (change(NET, dropout=float("nan")), "dropout is nan"),
    "huge": (change(SCHEDULER, thresholding=True, sample_max_value=10**400), "sample_max_value is 1000"),
    "endless": (change(SCHEDULER, thresholding=True, sample_max_value=float("inf")), "sample_max_value is inf"),
    "no channels": (change(NET, block_out_channels=[]), "block_out_channels is []"),
    "groups": (change(NET, norm_num_groups=3), "not a multiple of model.groups=3"),
    "two channels": (change(NET, in_channels=2), "in_channels is 2; expected 1 (grey), 3 (RGB) or 4 (RGBA)"),
    "condition channels": (change(NET, in_channels=1), "out_channels is 3; expected as many as in_channels, or twice"),
    "odd width": (change(NET, block_out_channels=[9, 16], norm_num_groups=1), "block_out_channels is [9, 16]; expe"),
    "another scheduler": (change(INDEX, scheduler=["diffusers", "DDPMScheduler"]), "the class in"),
    "style": (change(NET, downsample_type="resnet"), "downsample_type is 'resnet'; expected 'conv', as in a UNet"),
    "shift": (change(NET, freq_shift=2), "freq_shift is 2; expected one of 0, 1"),
    "eps": (change(NET, norm_eps=0), "norm_eps is 0; expected a number from 1e-12 to 1"),
    "fourier": (change(NET, time_embedding_type="fourier"), "time_embedding_type is 'fourier'"),
    "time": (change(NET, time_embedding_dim=99), "time_embedding_dim is 99"),
    "blocks": (change(NET, down_block_types=["SkipDownBlock2D", "AttnDownBlock2D"]), "down_block_types is ['Skip"),
    "levels": (change(NET, up_block_types=["UpBlock2D"]), "up_block_types is ['UpBlock2D']"),
    "attention": (change(NET, up_block_types=["UpBlock2D", "AttnUpBlock2D"]), "attention on the levels that have it"),
    "type": (change(NET, down_block_types=[[], {}]), "down_block_types is [[], {}]"),
    "scheduler": (change(SCHEDULER, _class_name="PNDMScheduler"), "_class_name is 'PNDMScheduler'"),
    "T": (change(SCHEDULER, num_train_timesteps=10**12), "num_train_timesteps is 1000000000000"),
    "schedule": (change(SCHEDULER, beta_schedule="sigmoid"), "beta_schedule is 'sigmoid'"),
    "beta": (change(SCHEDULER, beta_end=2), "beta_end is 2"),
    "table": (change(SCHEDULER, trained_betas=[0.1] * 5), "trained_betas is [0.1"),
    "table of text": (change(SCHEDULER, trained_betas=["0.1"] * 1000), "trained_betas is ['0.1'"),
    "prediction": (change(SCHEDULER, prediction_type="flow"), "prediction_type is 'flow'"),
    "spacing": (change(SCHEDULER, timestep_spacing="linspace"), "timestep_spacing is 'linspace'"),
    "offset": (change(SCHEDULER, timestep_spacing="leading", steps_offset=1), "steps_offset is 1"),
    "last alpha": (change(SCHEDULER, set_alpha_to_one=False), "set_alpha_to_one is False"),
    "threshold": (change(SCHEDULER, thresholding=True, sample_max_value=1.5), "sample_max_value is 1.5"),
    "clip": (change(SCHEDULER, clip_sample="yes"), "clip_sample is 'yes'"),
    "eps at alpha 0": (change(SCHEDULER, rescale_betas_zero_snr=True), "prediction: Eps cannot recover x0 at t = 1"),
    "another weight": (tensors(**{"add_embedding.weight": torch.zeros(1)}), "'add_embedding.weight' is not a weight"),
    "half of an attention": (tensors(**{"mid_block.attentions.9.to_q.weight": torch.zeros(1)}), "no counterpart here"),
    "another shape": (tensors(**{"conv_out.bias": torch.zeros(9)}), "out.bias is (9,), and should be (3,)"),
    "one more": (tensors(**{"conv_in.x": torch.zeros(9)}), "stem.x is (9,), and should be not there"),
    "whole numbers": (tensors(**{"conv_out.bias": torch.zeros(3, dtype=torch.int8)}), "conv_out.bias is torch.int8"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(model_of(), tmp_path_factory.mktemp("sound") / "x")


@pytest.mark.parametrize("name", HOSTILE)
def test_an_invalid_folder_gives_a_one_line_error(name: str, sound: Path, tmp_path: Path) -> None:
    harm, reason = HOSTILE[name]
    folder = tmp_path / "x"
    shutil.copytree(sound, folder)
    harm(folder)
    with pytest.raises(UserError) as error:
        restore(of_run(folder))
    assert reason in str(error.value)
    assert str(folder) in str(error.value)
    assert len(str(error.value)) < 500


def test_a_folder_with_its_parts_beside_the_index_is_read(sound: Path, tmp_path: Path) -> None:
    """As google/ddpm-cat-256 and others."""
    folder = tmp_path / "x"
    shutil.copytree(sound, folder)
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()
    nested, flat = restore(sound), restore(folder)
    assert diffusers_folder.weights_file(folder).parent == folder
    assert flat.config["sampler"] == nested.config["sampler"]
    state = flat.denoiser.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in nested.denoiser.state_dict().items())


def test_our_metadata_is_ignored_if_another_file_has_changed(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "x")
    change(SCHEDULER, clip_sample_range=2.0)(tmp_path / "x")
    back = restore(tmp_path / "x")
    assert back.config["sampler"]["threshold"]["limit"] == 2
    assert (back.step, back.weights) == (0, "raw")


def test_metadata_can_only_build_classes_listed_in_conf(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(sound, folder)
    file = diffusers_folder.weights_file(folder)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    config = json.loads(metadata["config"])
    for part, reason in (({"_target_": "os.system", "command": "true"}, "its model names os.system"), (5, "no model")):
        save_file(load_file(file), file, metadata | {"config": json.dumps(config | {"model": part})})
        with pytest.raises(UserError, match=reason):
            restore(folder)
    save_file(load_file(file), file, metadata | {"step": "x"})
    with pytest.raises(UserError, match="its metadata cannot be read"):
        restore(folder)


def test_old_attention_parameter_names_are_supported(sound: Path, tmp_path: Path) -> None:
    """As in google/ddpm-cifar10-32."""
    folder = tmp_path / "x"
    shutil.copytree(sound, folder)
    file = diffusers_folder.weights_file(folder)
    old = {new: name for name, new in diffusers_folder.OLD_NAMES.items()}
    weights = load_file(file)
    for new, name in old.items():
        weights = {key.replace(new, name): value for key, value in weights.items()}
    assert not any(".to_q." in key for key in weights)
    save_file(weights, file)
    expected = restore(sound).denoiser.network.state_dict()
    assert all(expected[key].equal(value) for key, value in restore(folder).denoiser.network.state_dict().items())


LIKE_DDPM = {"norm_eps": 1e-6, "downsample_padding": 0, "freq_shift": 1, "flip_sin_to_cos": False}
THEIRS = {
    "like google/ddpm-cifar10-32": {**LIKE_DDPM, "attention_head_dim": None},
    "by default": {},
    "with a large eps": {"norm_eps": 0.5, "freq_shift": 1},
    "with blocks that resample": {
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"), "attn_norm_num_groups": 4,
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"), "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet", "upsample_type": "resnet", "norm_eps": 0.5,
    },
}  # fmt: skip


@pytest.mark.parametrize("settings", THEIRS)
def test_a_folder_written_by_diffusers_is_restored(settings: str, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    """The folder is saved by diffusers itself."""
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16), "norm_num_groups": 4,
    }  # fmt: skip
    network = diffusers.UNet2DModel(sample_size=8, num_class_embeds=3, **{**blocks, **THEIRS[settings]})
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler(variance_type="fixed_large")).save_pretrained(tmp_path)
    model = restore(tmp_path)
    assert model.config["sampler"]["grid"]["_target_"] == "diffusion.process.grid.leading"
    assert model.config["sampler"]["variance"]["_target_"] == "diffusion.process.variance.fixed_large"
    assert (model.shape, model.labels, model.weights) == ((3, 8, 8), {"0": 1, "1": 1, "2": 1}, "raw")
    model.config["sampler"]["steps"] = 10
    noise, classes = draws(12), torch.tensor([2, 0])
    images = ours(model, noise, classes=classes)
    assert images.std() > 0.1
    torch.testing.assert_close(theirs(tmp_path, model, noise, patch, class_labels=classes), images, rtol=0, atol=1e-4)
