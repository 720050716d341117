"""A file is replaced completely or not at all; hashes depend on every byte."""

import hashlib
import os
from pathlib import Path

import pytest
import torch

from diffusion.base.files import digest, replace, replacing, tensor_digest


def test_the_old_content_is_readable_until_the_new_content_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text("old")
    with replacing(file) as new:
        new.write(b"half")
        new.flush()
        assert file.read_text() == "old"
    assert file.read_text() == "half"
    replace(file, "α")
    assert file.read_text("utf-8") == "α"
    plain = tmp_path / "plain"
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "plain"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_replacement_keeps_the_old_content(error: BaseException, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "run.json"
    replace(file, "old")

    def fail(*_args: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        replace(file, "new")
    assert getattr(error, "filename", str(file)) == str(file)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert file.read_text() == "old"


def test_a_digest_of_tensors_depends_on_names_shapes_dtypes_and_bytes() -> None:
    x = torch.arange(6)
    assert tensor_digest({"a": x, "b": x[:2]}) == tensor_digest({"b": x[:2].clone(), "a": x})
    variants = [{"a": x}, {"b": x}, {"a": x.reshape(2, 3)}, {"a": x.int()}, {"a": x + (x == 5)}, {"a": x.bfloat16()}]
    assert len({tensor_digest(v) for v in variants}) == len(variants)


def test_a_digest_is_that_of_the_content_or_of_the_parts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert digest(tmp_path / "file") == digest(b"abc") == hashlib.blake2b(b"abc", digest_size=16).hexdigest()
    assert len({digest("a", 1), digest("a", "1"), digest(("a", 1)), digest(b"abc")}) == 4
