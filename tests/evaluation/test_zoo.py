"""Models of the zoo are fetched once, by name and checksum; what goes wrong leaves nothing."""

import hashlib
import os
from pathlib import Path

import pytest
import torch

import diffusion
from diffusion.checkpoint import storage
from diffusion.checkpoint.find import named, trained
from diffusion.checkpoint.restore import restore
from diffusion.doors import zoo
from diffusion.errors import UserError


@pytest.fixture
def place(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that serves the model of a run as `zoo:small`."""
    model = restore(trained(scored))
    file = storage.export(tmp_path / "small.safetensors", model.denoiser.network.state_dict(), model.about)
    monkeypatch.setattr(zoo, "CHECKSUMS", {"small": hashlib.sha256(file.read_bytes()).hexdigest()})
    monkeypatch.setenv("DIFFUSION_ZOO", tmp_path.as_uri())
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    return file


def test_a_model_is_fetched_once_and_draws_as_its_run(place: Path, scored: Path) -> None:
    fetched = named("zoo:small")
    place.unlink()
    assert named("zoo:small") == fetched
    drawn, expected = (diffusion.load(each, device="cpu").sample(2, seed=1) for each in ("zoo:small", scored))
    assert torch.equal(drawn, expected)


def test_the_address_may_be_a_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSION_ZOO", os.path.relpath(place.parent))
    assert named("zoo:small").read_bytes() == place.read_bytes()


def test_an_exported_model_is_written_here(command, place: Path) -> None:
    assert command("export", ["zoo:small"])[0] == 0
    assert Path("small.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("zoo:smal", lambda _: None, r"no such model; the zoo has small \(did you mean small\?\)"),
        ("zoo:small", Path.unlink, r"cannot be fetched \(.*\); check the network"),
        ("zoo:small", lambda file: file.write_bytes(b"other"), "is damaged, or belongs to another version"),
    ],
)
def test_what_goes_wrong_is_refused_and_leaves_no_file(place: Path, name: str, spoil, said: str) -> None:
    spoil(place)
    with pytest.raises(UserError, match=f"ckpt={name}: .*{said}"):
        named(name)
    assert not [file for file in place.parent.rglob("cache/**/*") if file.is_file()]
