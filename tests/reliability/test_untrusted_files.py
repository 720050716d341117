"""T8. Untrusted files are only data: no code in them runs, and they cannot read anything on this machine."""

import contextlib
import io
import json
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import settings as settings_of
from composing import train
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file

from diffusion import export
from diffusion.checkpoint import storage
from diffusion.checkpoint.restore import restore
from diffusion.config import untrusted
from diffusion.config.choices import choices
from diffusion.report.__main__ import main as report
from diffusion.runs.jobs import config_text
from diffusion.training.clock import Clock
from diffusion.training.module import Diffusion
from diffusion.training.recipe import Recipe

pytestmark = pytest.mark.reliability

SECRET = "canary-b81d"


class Runs:
    """Unpickling it calls the function."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def pickles(sentinel: str) -> dict[str, bytes]:
    """Files that run code when unpickled."""
    touch = f"touch {sentinel}"
    bombs = {
        "os.system": Runs(os.system, touch),
        "subprocess": Runs(subprocess.call, ["touch", sentinel]),
        "Path.touch": Runs(Path.touch, Path(sentinel)),
        "exec": Runs(exec, f"open({sentinel!r}, 'w')"),
        "open": Runs(open, sentinel, "w"),
        "within lists": OrderedDict(a=[{"b": (1, Runs(os.system, touch))}]),
        "as a key": {"config": {Runs(os.mkdir, sentinel): 1}},
    }
    files: dict[str, bytes] = {name: pickle.dumps(bomb) for name, bomb in bombs.items()}
    for name, legacy in (("torch zip", False), ("torch legacy", True)):
        buffer = io.BytesIO()
        contents = {"state_dict": bombs["os.system"], "config": "", "global_step": 0, "epoch": 0}
        torch.save(contents, buffer, _use_new_zipfile_serialization=not legacy)
        files[name] = buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../../../../../../../.." + sentinel, b"out")
        archive.writestr("archive/data.pkl", pickle.dumps(bombs["exec"]))
        archive.writestr("archive/version", b"3\n")
    files["traversal"] = buffer.getvalue()
    return files


def configs(sentinel: str) -> dict[str, dict[str, Any]]:
    """Parts of a configuration that would run code or read the environment when built."""
    path = {"_target_": "pathlib.Path", "_args_": [sentinel]}
    touch = {"_target_": "pathlib.Path.touch", "_args_": [path]}  # not on Hydra's own block list
    run = {"_target_": "subprocess.call", "args": ["touch", sentinel]}
    return {
        "target": {"model": {"_target_": "os.system", "command": f"touch {sentinel}"}},
        "schedule": {"schedule": touch},
        "prediction": {"prediction": run},
        "data": {"data": {**touch, "resolution": 8}},
        "sampler": {"sampler": touch},
        "sampler's grid": {"sampler": {"_target_": "diffusion.process.sampler.DDIM", "steps": 1, "grid": touch}},
        "metrics": {"metrics": {"kernel": {**run, "_partial_": True}}},
        "features": {"features": run},
        "nested": {"model": {"_target_": "diffusion.model.UNet", "channels": {"deep": {"er": touch}}}},
        "in a list": {"schedule": {"_target_": "diffusion.process.schedule.linear", "steps": [1, [touch]]}},
        "in arguments": {"prediction": {"_target_": "diffusion.process.prediction.Eps", "_args_": [touch]}},
        "partial": {"model": {"_target_": "subprocess.call", "_partial_": True, "args": ["touch", sentinel]}},
        "not recursive": {"model": {"_target_": "hydra.utils.instantiate", "_recursive_": False, "config": run}},
        "through ours": {"model": {"_target_": "diffusion.config.choices.os.system", "command": f"touch {sentinel}"}},
        "our writer": {"model": {"_target_": "diffusion.files.replace", "path": path, "_args_": ["x"]}},
        "our builder": {"model": {"_target_": "diffusion.config.build.make", "node": run, "group": "model"}},
        "eval": {"schedule": {"_target_": "builtins.eval", "_args_": [f"open({sentinel!r}, 'w')"]}},
        "get_method": {"model": {"_target_": "hydra.utils.get_method", "path": "os.system"}},
        "secret": {"model": {"_target_": "diffusion.model.UNet", "channels": "${oc.env:FOREIGN_SECRET}"}},
        "secret path": {
            "data": {"_target_": "diffusion.data.Folder", "resolution": 8, "root": "/${oc.env:FOREIGN_SECRET}"}
        },
        "secret target": {"model": {"_target_": "${oc.env:FOREIGN_SECRET}"}},
        "decoded": {"schedule": {"_target_": "x", "a": "${oc.decode:${oc.env:FOREIGN_SECRET}}"}},
        "secret key": {"model": {"_target_": "diffusion.model.UNet", "a${oc.env:FOREIGN_SECRET}": 1}},
    }


def texts(sentinel: str, base: str) -> dict[str, str]:
    """Configurations that are more than plain yaml; all but the first and the last are otherwise valid."""
    lists = "a: &a [x,x]\n" + "".join(f"{b}: &{b} [*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    return {
        "yaml tag": f"model: !!python/object/apply:os.system ['touch {sentinel}']\n",
        "yaml path": f"{base}\nmore: !!python/object/apply:pathlib.Path [/]\n",
        "aliases": f"{base}\n{lists}",
        "escaped": f'{base}\nmore: "\\x24{{oc.env:FOREIGN_SECRET}}"\n',
        "depth": "model: " + "[" * 1000,
    }


UNBUILT = [*configs(""), *texts("", "")]
PAYLOADS = [*pickles(""), *UNBUILT, "exported target", "exported secret"]
REASONS = {"yaml tag": "is not plain yaml", "yaml path": "is not plain yaml", "aliases": "is not plain yaml"}
SECRETS = ("secret", "secret path", "secret target", "secret key", "decoded", "escaped")
REASONS |= dict.fromkeys(SECRETS, "contains the interpolation")


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("here") / "sentinel"


@pytest.fixture(scope="module")
def payloads(tiny, tmp_path_factory, sentinel) -> dict[str, Path]:
    """Untrusted files; if the payload is in the configuration, a run's folder next to the file contains it, too."""
    folder = tmp_path_factory.mktemp("untrusted")
    files = {name: folder / f"{name}.{'safetensors' if 'exported' in name else 'ckpt'}" for name in PAYLOADS}
    train([*tiny, "trainer.max_steps=1", "samples.n=0"], folder / "own")
    own = folder / "own/checkpoints/last.ckpt"
    contents = torch.load(own, weights_only=True)
    base = OmegaConf.to_container(OmegaConf.create(contents["config"]))
    assert isinstance(base, dict)
    for name, content in pickles(str(sentinel)).items():
        files[name].write_bytes(content)
    parts = configs(str(sentinel))
    unbuilt = {name: OmegaConf.to_yaml(base | part) for name, part in parts.items()}
    for name, text in (unbuilt | texts(str(sentinel), contents["config"])).items():
        torch.save(contents | {"config": text}, files[name])
        files[name].with_suffix("").mkdir()
        (files[name].with_suffix("") / "config.yaml").write_text(text)
    assert export.main([str(own), str(folder / "own.safetensors")]) == 0
    with safe_open(folder / "own.safetensors", "pt") as sound:
        metadata, tensors = sound.metadata(), {key: sound.get_tensor(key) for key in sound.keys()}  # noqa: SIM118
    for name in ("target", "secret"):
        config = json.dumps({part: (base | parts[name])[part] for part in untrusted.PARTS})
        save_file(tensors, files[f"exported {name}"], metadata | {"config": config})
    return files | {"own": own}


RUN_BY_HYDRA = ("schedule", "sampler", "sampler's grid", "nested", "in a list", "in arguments")  # not on its block list


@pytest.mark.parametrize("name", sorted({*pickles("")} - {"traversal"}))
def test_payloads_run_if_a_file_is_unpickled(tmp_path: Path, name: str) -> None:
    """So the test below can fail."""
    sentinel = tmp_path / "sentinel"
    with contextlib.suppress(Exception):
        torch.load(io.BytesIO(pickles(str(sentinel))[name]), weights_only=False)
    assert sentinel.exists()


@pytest.mark.parametrize("name", RUN_BY_HYDRA)
def test_payloads_run_if_a_configuration_is_built(tmp_path: Path, name: str) -> None:
    sentinel = tmp_path / "sentinel"
    with contextlib.suppress(Exception):
        instantiate(OmegaConf.create(configs(str(sentinel))[name]))
    assert sentinel.exists()


survived: set[str] = set()


@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_in_files_neither_run_nor_leak_secrets(
    command, tiny, tmp_path, monkeypatch, capfd, payloads, sentinel, figure, name
):
    monkeypatch.setenv("FOREIGN_SECRET", SECRET)
    monkeypatch.setattr("diffusion.metric.features.Lite0", torch.nn.Identity)  # no command gets as far as scoring
    monkeypatch.setattr("diffusion.report.style.save", lambda *_: None)
    path = payloads[name]
    output = ""
    for what, overrides in {
        "sample": ["n=1", "sampler.steps=1", "device=cpu"],
        "evaluate": ["n=4", "sampler.steps=1", "device=cpu", "features=lite0"],
        "study": ["sampler", "n=4", "samplers=[ddim]", "nfe=[2]", "device=cpu", "features=lite0"],
        "train": [*tiny, "samples.n=0", "trainer.max_steps=1"],
    }.items():
        status, out, err = command(what, [*overrides, f"ckpt='{path}'", f"hydra.run.dir='out/{what}'"])
        assert status == 2 or (what == "train" and name in UNBUILT), what  # resuming builds nothing of a configuration
        output += out + err
    capfd.readouterr()
    assert export.main([str(path), str(tmp_path / "x.safetensors")]) == 2
    if name in UNBUILT:
        report([str(path.with_suffix(""))])
    output += "".join(capfd.readouterr())
    assert not sentinel.exists()
    assert SECRET not in output
    assert REASONS.get(name, "") in output
    for folder in (tmp_path, path.parent):
        assert not [file for file in folder.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    survived.add(name)
    assert len(PAYLOADS) >= 30
    figure("payloads in untrusted files that ran", f"0 of {len(survived)}")


def part(**changes: Any) -> Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]:
    """Change parts of the configuration; None removes one."""
    return lambda contents, base: (
        contents | {"config": OmegaConf.to_yaml({k: v for k, v in (base | changes).items() if v is not None})}
    )


def with_(**changes: Any) -> Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]:
    return lambda contents, _: contents | changes


UNET = "diffusion.model.UNet"
MALFORMED = {
    "no model": part(model=None),
    "no schedule": part(schedule=None),
    "no data": part(data=None),
    "null": lambda contents, base: contents | {"config": OmegaConf.to_yaml(base | {"model": None})},
    "a list": part(model=[{"_target_": UNET}]),
    "a function": part(model={"_target_": UNET, "_partial_": True}),
    "a function deeper": part(schedule={"_target_": "diffusion.process.schedule.linear", "steps": {"_partial_": True}}),
    "a function by text": part(
        schedule={
            "_target_": "diffusion.process.schedule.zero_terminal_snr",
            "table": {"_target_": "diffusion.process.schedule.linear", "_partial_": "yes"},
        }
    ),
    "target 5": part(prediction={"_target_": 5}),
    "no target": part(prediction={}),
    "number as a key": part(model={"_target_": UNET, 5: 5}),
    "no size": part(data={"_target_": "diffusion.data.Folder", "resolution": "x"}),
    "text as channels": part(model={"_target_": UNET, "channels": "x", "in_channels": []}),
    "interpolation in two lines": part(name="${seed}\nx"),
    "config null": with_(config=None),
    "config a list": with_(config="[]"),
    "weights null": with_(state_dict=None),
    "weights text": with_(state_dict={"denoiser.network.out.weight": "x"}),
    "step text": with_(global_step="x"),
    "step null": with_(global_step=None),
    "epoch text": with_(epoch="x"),
}
DDIM = "diffusion.process.sampler.DDIM"
GRID = {"_target_": "diffusion.process.grid.uniform", "_partial_": True}
MISLEADING = {  # command -> the parts that it builds for samples and scores
    "no sampler": ("sample", part(sampler=GRID)),
    "steps text": ("sample", part(sampler={"_target_": DDIM, "steps": "x"})),
    "no grid": ("sample", part(sampler={"_target_": DDIM, "steps": 1, "grid": 5})),
    "another's grid": (
        "sample",
        part(sampler={"_target_": DDIM, "steps": 1, "grid": GRID | {"_target_": "diffusion.process.denoiser.clip"}}),
    ),
    "seed text": ("sample", part(seed="x")),
    "weights of the features": (
        "evaluate",
        part(features={"_target_": "diffusion.metric.features.Inception", "path": "/etc/hostname"}),
    ),
    "n text": ("evaluate", part(score={"n": "x"})),
    "guidance a number": ("sample", part(guidance=3)),
}
WEIGHTS = "a file may not decide which weights are read"


@pytest.mark.parametrize("name", MISLEADING)
def test_misleading_samplers_and_scores_in_a_file_are_refused_with_one_line(command, payloads, name):
    what, change = MISLEADING[name]
    contents = torch.load(payloads["own"], weights_only=True)
    base = OmegaConf.to_container(OmegaConf.create(contents["config"]))
    torch.save(change(contents, base), "x.ckpt")
    status, _, err = command(what, ["ckpt=x.ckpt", "device=cpu"])
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert WEIGHTS in err or what == "sample" or name == "n text"
    assert "its sampler is not a sampler" in err or name != "no sampler"


RESUMED = ("config null", "weights null", "step", "epoch")  # resuming builds nothing of a configuration


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_checkpoint_is_refused_with_one_line(command, tiny, tmp_path, capfd, payloads, name):
    contents = torch.load(payloads["own"], weights_only=True)
    base = OmegaConf.to_container(OmegaConf.create(contents["config"]))
    torch.save(MALFORMED[name](contents, base), tmp_path / "x.ckpt")
    assert export.main([str(tmp_path / "x.ckpt"), str(tmp_path / "x.safetensors")]) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "x.ckpt" in err
    if name.startswith(RESUMED):
        status, _, err = command("train", [*tiny, "ckpt=x.ckpt"])
        assert status == 2
        assert err.startswith("error: ckpt=x.ckpt")
        assert err.count("\n") == 1


@pytest.mark.parametrize("pickled", [b"\x80\x02}]K\x01s.", b"\x80\x02K\x01Q.", b"\x80\x02G."])
def test_an_unusual_pickle_is_refused_with_one_line(tmp_path, capfd, pickled):
    """A dictionary with a list as a key, a wrong reference to a tensor, a number that is cut off."""
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", b"3\n")
    assert export.main([str(tmp_path / "x.ckpt"), str(tmp_path / "x.safetensors")]) == 2
    err = capfd.readouterr().err
    assert "x.ckpt: not a readable checkpoint: it cannot be read (" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["[" * 100_000, '"${"', '{"model": "${"}', "null", "5", "[]", "{}", '{"model": null}'])
def test_a_malformed_exported_file_is_refused_with_one_line(tmp_path, capfd, payloads, text):
    with safe_open(payloads["own"].parent.parent.parent / "own.safetensors", "pt") as sound:
        metadata, tensors = sound.metadata(), {key: sound.get_tensor(key) for key in sound.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "x.safetensors", metadata | {"config": text})
    assert export.main([str(tmp_path / "x.safetensors"), str(tmp_path / "y.safetensors")]) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


SMALL = ("model=unet_tiny", "model.channels=[8,16]", "model.attention=[false,true]", "model.groups=4")
INNER = {"timesteps": "objective.timesteps", "weighting": "objective.weighting"}  # groups inside another part
WIDE = ("edm2", "edm2_s", "edm2_xs", "unet_adm")
TWICE = ("hybrid", "vlb")  # objectives that need a network with twice the outputs
CHOICES = [
    (group, choice) for group in (*untrusted.PARTS, "objective", "experiment", *INNER) for choice in choices(group)
]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_the_checkpoint_of_every_shipped_choice_loads(tmp_path, group, choice):
    overrides = [] if group in ("model", "experiment") else [*SMALL]
    overrides += [f"{group}@{INNER[group]}={choice}" if group in INNER else f"{group}={choice}"]
    overrides += ["data.root=photos"] if choice == "folder" else []
    overrides += ["model.depth=2"] if choice.startswith(("dit_", "jit_")) else []  # the largest need gigabytes …
    overrides += ["model.blocks=1", "model.channels=[64,64,64,64]"] if choice in WIDE else []  # … and half a minute
    overrides += ["model.out_channels=6"] if choice in TWICE and group == "objective" else []
    if group == "schedule":  # eps is meaningless where alpha = 0, and v where alpha = 1
        overrides += ["prediction=edm", "grid@sampler.grid=karras"] if choice in ("edm", "ve") else ["prediction=v"]
    settings = settings_of(overrides)
    recipe = Recipe.build(settings)
    module, network = Diffusion(settings, recipe, Clock(1, 1)), recipe.network
    kept = {"config": config_text(settings), "global_step": 1, "epoch": 0}
    storage.save(kept | {"state_dict": module.state_dict()}, tmp_path / "x.ckpt")
    restored = restore(tmp_path / "x.ckpt")
    assert restored.config["model"] == settings.model
    assert isinstance(restored.denoiser.schedule, type(module.denoiser.schedule))
    expected = network.state_dict()
    assert restored.denoiser.network.state_dict().keys() == expected.keys()
    for name, value in restored.denoiser.network.state_dict().items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_an_exported_model_equals_its_checkpoint(command, tiny, tmp_path, weights):
    command("train", [*tiny, "trainer.max_steps=3", "samples.n=0", "hydra.run.dir=run"])
    ckpt, file = tmp_path / "run/checkpoints/last.ckpt", tmp_path / "model.safetensors"
    assert export.main([f"ckpt={ckpt}", str(file), "--weights", weights]) == 0
    here, there = restore(ckpt, weights), restore(file, weights)
    assert (here.step, here.weights, here.config["model"]) == (there.step, there.weights, there.config["model"])
    assert all(
        torch.equal(a, b)
        for a, b in zip(here.denoiser.state_dict().values(), there.denoiser.state_dict().values(), strict=True)
    )
    status, out, err = command("sample", [f"ckpt={file}", f"weights={weights}", "n=2", "sampler.steps=2", "device=cpu"])
    assert status == 0, out + err
    status, _, err = command("train", [*tiny, f"ckpt={file}"])
    assert status == 2
    assert "resume from a checkpoint" in err
    file.write_bytes(file.read_bytes()[:1000])
    status, _, err = command("sample", [f"ckpt={file}"])
    assert status == 2
    assert "model.safetensors" in err
