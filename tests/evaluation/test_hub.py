"""Models go to the Hugging Face Hub and come back equal; its refusals are one line."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hub import Hub, serving

import diffusion
from diffusion.checkpoint.find import trained
from diffusion.checkpoint.restore import restore
from diffusion.doors import diffusers_folder
from diffusion.metric.record import Reference, Score
from diffusion.runs.folder import append_scores
from diffusion.training.resume import initial

pytest.importorskip("huggingface_hub")
pytest.importorskip("diffusers")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving(tmp_path / "hub", token="may-write") as hub:
        yield hub


def samples(ckpt: str | Path) -> torch.Tensor:
    return diffusion.load(ckpt, device="cpu").sample(3, seed=5, progress=False)


def test_a_pushed_model_comes_back_equal_at_each_revision(
    command, two_steps: Path, photos: Path, hub: Hub, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))
    shutil.copytree(two_steps, "run")
    own = restore("run/checkpoints/last.ckpt").source["network_hash"]
    for name, network in {"fd_lite0": own, "kid_lite0": "of other weights"}.items():
        score = Score(name, 12.345, 8, reference=Reference("val", 8, "k"), low=10.0, high=14.0)
        append_scores(Path("run"), [score.of("samples", "1", {"network_hash": network})])
    status, out, err = command("export", ["run", "--push", "ana/skies"])
    assert (status, "Traceback" in err) == (0, False)
    assert out.splitlines()[-1].strip() == "diffusion sample ckpt=hf://ana/skies"
    asked = "repos/create", "preupload/main", "commit/main"
    assert all(any(part in request for request in hub.requests) for part in asked)
    first, files = hub.at("ana/skies")
    assert {"model.safetensors", "samples.png", diffusers_folder.INDEX, diffusers_folder.WEIGHTS} <= files.keys()
    assert not any(str(photos).encode() in content or b"may-write" in content for content in files.values())

    card = files["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["library_name"], front["tags"][0]) == ("diffusers", "diffusion-experiments")
    for expected in (
        "diffusion train", "12.3 [10.0, 14.0]", "8 images; reference split val", "not stated", "`trainer.max_steps`",
        "DiffusionPipeline.from_pretrained('ana/skies')", "![samples](samples.png)",
    ):  # fmt: skip
        assert expected in card
    assert "kid_lite0" not in card

    assert torch.equal(samples("hf://ana/skies"), samples("run"))
    assert torch.equal(diffusion.load(f"hf://ana/skies@{first}").sample(2), diffusion.load("run").sample(2))
    assert command("export", ["run", "--push", "ana/skies", "--weights=raw", "--sampler=heun sampler.steps=2"])[0] == 0
    second, files = hub.at("ana/skies")
    assert second != first
    assert not any(name.startswith(("unet", "scheduler")) for name in files)  # Heun has no counterpart there
    assert restore(trained("hf://ana/skies")).weights == "raw"
    assert torch.equal(samples(f"hf://ana/skies@{first}"), samples("run"))
    assert initial(f"hf://ana/skies@{first}")[1]["weights"] == "ema"
    said = command("sample", [f"ckpt=hf://ana/skies@{first}", "n=2", "hydra.run.dir=drawn", "device=cpu"])
    assert said[0] == 0
    assert Path("drawn/grid.png").is_file()
    assert command("export", ["hf://ana/skies"])[1].strip() == "skies.safetensors"
    assert all("may-write" not in path.read_text("latin1") for path in Path().rglob("*") if path.is_file())


def test_weights_that_guide_are_pushed_and_the_licences_of_the_photographs(command, hub: Hub) -> None:
    assert command("export", ["demo", "--push", "ana/demo", "--private", "--sampler", "ddim sampler.steps=2"])[0] == 0
    files = hub.at("ana/demo")[1]
    assert hub.private == {"ana/demo"}
    assert files["licences/LICENSE"].startswith(b"The photographs in")
    theirs, ours = (diffusion.load(ckpt, device="cpu") for ckpt in ("hf://ana/demo", "demo"))
    assert theirs.drawing().weak is not None
    assert torch.equal(theirs.sample(2), ours.sample(2, sampler="ddim", steps=2))


def test_a_diffusers_folder_of_others_is_read(command, two_steps: Path, hub: Hub) -> None:
    assert command("export", [str(two_steps), "folder", "--format=diffusers"])[0] == 0
    files = {file.relative_to("folder").as_posix(): file.read_bytes() for file in Path("folder").rglob("*.*")}
    del files[diffusers_folder.RECIPE]
    hub.commit("bo/ddpm", files | {"vae/weights.bin": b"", "safety_checker/config.json": b"{}"})
    found = restore(trained("hf://bo/ddpm"))
    assert found.source["network_hash"] == restore(two_steps / "checkpoints/last.ckpt").source["network_hash"]
    assert not (found.path / "safety_checker").exists()
    assert not (found.path / "vae/weights.bin").exists()


PIPELINE = json.dumps({"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}).encode()
REFUSED = {
    "no such model": ("hf://ana/none", "there is no such model, or it is private"),
    "no such revision": ("hf://bo/other@v9", "no such revision"),
    "gated": ("hf://bo/gated", "its owner must grant access"),
    "another pipeline": ("hf://bo/other", "no diffusers folder that can be read here"),
    "no name": ("hf://ana", "expected USER/NAME"),
    "refused token": ("hf://bo/other", "refuses the token"),
    "no network": ("hf://bo/other", "cannot be reached"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_hub_does_not_give_is_one_line(name: str, hub: Hub, command, monkeypatch, tmp_path: Path) -> None:
    hub.commit("bo/other", {diffusers_folder.INDEX: PIPELINE, "unet/diffusion_pytorch_model.safetensors": b"x"})
    hub.commit("bo/gated", {"model.safetensors": b"x"})
    hub.gated.add("bo/gated")
    if name == "refused token":
        monkeypatch.setenv("HF_TOKEN", "stolen")
    if name == "no network":
        hub.shutdown()
        hub.server_close()
    address, said = REFUSED[name]
    status, _, err = command("sample", [f"ckpt={address}", "n=1"])
    line = next(each for each in err.splitlines() if each.startswith("error: "))
    assert (status, err.count("error: ")) == (2, 1)
    assert address in line
    assert re.search(said, line)
    assert "stolen" not in err
    assert not [file for file in tmp_path.glob("outputs/*/*/*") if file.name != ".hydra"]
    assert not any("safetensors" in request and "GET" in request for request in hub.requests)


UNPUSHED = {
    "only reads": ("may-read", "ana/new", "refuses the token"),
    "no token": (None, "ana/new", "no token; log in"),
    "of others": ("may-write", "bo/other", r"it holds model\.safetensors, which diffusion has not written"),
    "no name": ("may-write", "a//b", "expected USER/NAME"),
}


@pytest.mark.parametrize("name", UNPUSHED)
def test_a_refused_push_uploads_nothing(name: str, hub: Hub, command, two_steps: Path, monkeypatch) -> None:
    hub.commit("bo/other", {"model.safetensors": b"x"})
    token, to, said = UNPUSHED[name]
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    status, _, err = command("export", [str(two_steps), "--push", to])
    assert status == 2
    assert err.count("\n") == 1
    assert re.search(said, err)
    assert len(hub.repositories["bo/other"]) == 1
    assert {*hub.repositories} == {"bo/other"}


def test_without_huggingface_hub_one_line_says_what_to_install(command, two_steps: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "[diffusers]" in command("sample", ["ckpt=hf://ana/skies"])[2]
    assert "[diffusers]" in command("export", [str(two_steps), "--push", "ana/skies"])[2]
