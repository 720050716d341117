"""Untrusted files are only data: no code in them runs, and they cannot read anything on this machine."""

import contextlib
import io
import json
import os
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffusion.checkpoint.restore import restore
from diffusion.cli import export
from diffusion.cli.report import main as report
from diffusion.config import build
from diffusion.errors import UserError

pytestmark = pytest.mark.reliability

SECRET = "canary-b81d"
UNET, DDIM = "diffusion.model.UNet", "diffusion.process.sampler.DDIM"


class Runs:
    """Unpickling it calls the function."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def pickles(sentinel: str) -> dict[str, bytes]:
    """Files that run code when unpickled."""
    system = Runs(os.system, f"touch {sentinel}")
    bombs = {
        "os.system": system,
        "within lists": OrderedDict(a=[{"b": (1, system)}]),
        "as a key": {"config": {Runs(os.mkdir, sentinel): 1}},
    }
    files: dict[str, bytes] = {name: pickle.dumps(bomb) for name, bomb in bombs.items()}
    for name, legacy in (("torch zip", False), ("torch legacy", True)):
        buffer = io.BytesIO()
        contents = {"state_dict": system, "config": "", "global_step": 0, "epoch": 0}
        torch.save(contents, buffer, _use_new_zipfile_serialization=not legacy)
        files[name] = buffer.getvalue()
    return files


def configs(sentinel: str) -> dict[str, dict[str, Any]]:
    """Parts of a configuration that would run code or read the environment when built."""
    path = {"_target_": "pathlib.Path", "_args_": [sentinel]}
    touch = {"_target_": "pathlib.Path.touch", "_args_": [path]}  # not on Hydra's own block list
    run = {"_target_": "subprocess.call", "args": ["touch", sentinel]}
    secret = "${oc.env:FOREIGN_SECRET}"
    return {
        "target": {"model": {"_target_": "os.system", "command": f"touch {sentinel}"}},
        "sampler's grid": {"sampler": {"_target_": DDIM, "steps": 1, "grid": touch}},
        "metrics": {"metrics": {"kernel": {**run, "_partial_": True}}},
        "in a list": {"schedule": {"_target_": "diffusion.process.schedule.linear", "steps": [1, [touch]]}},
        "in arguments": {"prediction": {"_target_": "diffusion.process.prediction.Eps", "_args_": [touch]}},
        "not recursive": {"model": {"_target_": "hydra.utils.instantiate", "_recursive_": False, "config": run}},
        "our builder": {"model": {"_target_": "diffusion.config.build.make", "node": run, "group": "model"}},
        "secret": {"model": {"_target_": UNET, "channels": secret}},
        "secret key": {"model": {"_target_": UNET, f"a{secret}": 1}},
    }


def texts(sentinel: str, base: str) -> dict[str, str]:
    """Configurations that are more than plain yaml."""
    lists = "a: &a [x,x]\n" + "".join(f"{b}: &{b} [*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    return {
        "yaml tag": f"model: !!python/object/apply:os.system ['touch {sentinel}']\n",
        "aliases": f"{base}\n{lists}",
        "escaped": f'{base}\nmore: "\\x24{{oc.env:FOREIGN_SECRET}}"\n',
        "depth": "model: " + "[" * 1000,
    }


UNBUILT = [*configs(""), *texts("", "")]
PAYLOADS = [*pickles(""), *UNBUILT, "exported target", "exported secret"]
COMMANDS = {
    "sample": ["n=1", "sampler.steps=1", "device=cpu"],
    "evaluate": ["n=4", "sampler.steps=1", "device=cpu", "features=lite0"],
    "study": ["sampler", "n=4", "samplers=[ddim]", "nfe=[2]", "device=cpu", "features=lite0"],
    "train": ["samples.n=0", "trainer.max_steps=1"],
}
BY_EVERY_COMMAND = ("torch zip", "target", "secret")


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("here") / "sentinel"


@pytest.fixture(scope="module")
def own(two_steps) -> dict[str, Any]:
    """The contents of a sound checkpoint."""
    return torch.load(two_steps / "checkpoints/last.ckpt", weights_only=True)


def opened(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of an exported model."""
    with safe_open(file, "pt") as sound:
        return sound.metadata(), {key: sound.get_tensor(key) for key in sound.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def payloads(two_steps, own, tmp_path_factory, sentinel) -> dict[str, Path]:
    """Untrusted files; if the payload is in the configuration, a run's folder next to the file contains it, too."""
    folder = tmp_path_factory.mktemp("untrusted")
    files = {name: folder / f"{name}.{'safetensors' if 'exported' in name else 'ckpt'}" for name in PAYLOADS}
    base, parts = OmegaConf.to_container(OmegaConf.create(own["config"])), configs(str(sentinel))
    for name, content in pickles(str(sentinel)).items():
        files[name].write_bytes(content)
    unbuilt = {name: OmegaConf.to_yaml(base | part) for name, part in parts.items()}
    for name, text in (unbuilt | texts(str(sentinel), own["config"])).items():
        torch.save(own | {"config": text}, files[name])
        files[name].with_suffix("").mkdir()
        (files[name].with_suffix("") / "config.yaml").write_text(text)
    assert export.main([str(two_steps), str(folder / "own.safetensors")]) == 0
    metadata, tensors = opened(folder / "own.safetensors")
    for name in ("target", "secret"):
        config = json.dumps(OmegaConf.to_yaml({part: (base | parts[name])[part] for part in build.PARTS}))
        save_file(tensors, files[f"exported {name}"], metadata | {"config": config})
    return files


def test_payloads_run_if_a_file_is_unpickled_or_a_configuration_is_built(tmp_path: Path) -> None:
    """So the test below can fail."""
    sentinel = tmp_path / "sentinel"
    for content in pickles(str(sentinel)).values():
        with contextlib.suppress(Exception):
            torch.load(io.BytesIO(content), weights_only=False)
        assert sentinel.exists()
        sentinel.rmdir() if sentinel.is_dir() else sentinel.unlink()
    for name in ("sampler's grid", "in a list", "in arguments"):  # not on Hydra's block list
        with contextlib.suppress(Exception):
            instantiate(OmegaConf.create(configs(str(sentinel))[name]))
        assert sentinel.exists()
        sentinel.unlink()


@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_in_files_neither_run_nor_leak_secrets(
    command, tiny, tmp_path, monkeypatch, capfd, payloads, sentinel, name
):
    monkeypatch.setenv("FOREIGN_SECRET", SECRET)
    monkeypatch.setattr("diffusion.report.style.Chart.save", lambda *_: [])
    path = payloads[name]
    with pytest.raises(UserError) as refused:
        restore(path)
    output = str(refused.value)
    if name in UNBUILT:
        report([str(path.with_suffix(""))])
    for what, words in COMMANDS.items() if name in BY_EVERY_COMMAND else ():
        data = tiny if what == "train" else []
        status, out, err = command(what, [*words, *data, f"ckpt='{path}'", f"hydra.run.dir='out/{what}'"])
        assert status == 2 or (what == "train" and name in UNBUILT), what  # resuming builds nothing of a configuration
        output += out + err
    output += "".join(capfd.readouterr())
    assert not sentinel.exists()
    assert SECRET not in output
    for folder in (tmp_path, path.parent):
        assert not [file for file in folder.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]


PARTS: dict[str, dict[str, Any]] = {  # malformed parts of the configuration; None removes one
    "no model": {"model": None},
    "a function": {"model": {"_target_": UNET, "_partial_": True}},
    "target 5": {"prediction": {"_target_": 5}},
    "a size that fits into no memory": {"data": {"_target_": "diffusion.data.Folder", "resolution": 100_000}},
    "no size": {"data": {"_target_": "diffusion.data.Folder", "resolution": "xy"}},
    "text as channels": {"model": {"_target_": UNET, "channels": "x", "in_channels": []}},
}
CONTENTS: dict[str, dict[str, Any]] = {
    "config a list": {"config": "[]"},
    "weights text": {"state_dict": {"denoiser.network.out.weight": "x"}},
    "step text": {"global_step": "x"},
}
MISLEADING: dict[str, dict[str, Any]] = {  # what is built only to draw or to score
    "sample": {"sampler": {"_target_": DDIM, "steps": "x"}},
    "evaluate": {"features": {"_target_": "diffusion.metric.features.Inception", "path": "/etc/hostname"}},
}


def with_parts(own: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    base = OmegaConf.to_container(OmegaConf.create(own["config"])) | parts
    return own | {"config": OmegaConf.to_yaml({key: value for key, value in base.items() if value is not None})}


@pytest.mark.parametrize("name", [*PARTS, *CONTENTS])
def test_a_malformed_checkpoint_is_refused_with_one_line(tmp_path, own, name):
    torch.save(own | CONTENTS[name] if name in CONTENTS else with_parts(own, PARTS[name]), tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt"):
        restore(tmp_path / "x.ckpt")


@pytest.mark.parametrize("name", MISLEADING)
def test_misleading_samplers_and_scores_in_a_file_are_refused_with_one_line(refused, own, name):
    torch.save(with_parts(own, MISLEADING[name]), "x.ckpt")
    refused(name, ["ckpt=x.ckpt", "device=cpu"])


def test_a_torn_or_misleading_exported_model_is_refused_with_one_line(tmp_path, two_steps):
    file = tmp_path / "model.safetensors"
    assert export.main([f"ckpt={two_steps / 'checkpoints/last.ckpt'}", str(file)]) == 0
    shutil.copy(file, tmp_path / "torn.safetensors")
    os.truncate(tmp_path / "torn.safetensors", 1000)
    metadata, tensors = opened(file)
    for i, text in enumerate(("[" * 100_000, '"${"', '{"model": "${"}', "null", '{"model": null}')):
        save_file(tensors, tmp_path / f"{i}.safetensors", metadata | {"config": text})
    for other in [tmp_path / "torn.safetensors", *tmp_path.glob("?.safetensors")]:
        with pytest.raises(UserError, match=other.name):
            restore(other)
