"""A run notices changed images, and never reads the output of a command."""

import shutil
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def own_photos(photos, tmp_path) -> Path:
    return Path(shutil.copytree(photos, tmp_path / "own"))


def replace_one(folder: Path) -> None:
    """Put another image under an old name, in any split."""
    Image.new("RGB", (24, 24), (1, 2, 3)).save(folder / "05.png")


def test_resuming_in_the_same_folder_with_changed_images_is_refused(command, tiny, own_photos, tmp_path):
    words = [*tiny[:-1], f"data.root={own_photos}", "samples.n=0"]
    assert command("train", [*words, "trainer.max_steps=2", "hydra.run.dir=run"])[0] == 0
    status, out, err = command("train", ["hydra.run.dir=run", "ckpt=auto", "trainer.max_steps=4"])
    assert status == 0, out + err
    replace_one(own_photos)
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("config.yaml", "checkpoints/last.ckpt")}
    status, out, err = command("train", ["hydra.run.dir=run", "ckpt=auto", "trainer.max_steps=6"])
    assert status == 2, out + err
    (line,) = err.splitlines()
    assert "are not those it was trained with; restore them, or continue with these images, and all settings" in line
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}
    status, out, err = command(
        "train", [*words, "trainer.max_steps=6", "hydra.run.dir=other", "ckpt=run/checkpoints/last.ckpt"]
    )
    assert status == 0, out + err
    assert "held-out images may have been training images" in out
