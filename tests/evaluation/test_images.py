"""The files of drawn images."""

from pathlib import Path

import torch

from diffusion.evaluation.commands import save_images


def test_the_images_of_an_earlier_call_are_removed(tmp_path: Path) -> None:
    """But not other files, nor numbered photographs where no images were drawn before."""

    def saved(n: int) -> list[str]:
        save_images(tmp_path, torch.zeros(n, 3, 4, 4, dtype=torch.uint8), 0, {})
        return sorted(file.name for file in (tmp_path / "images").iterdir())

    (tmp_path / "images").mkdir()
    for name in ("2026.png", "1 (copy).png"):
        (tmp_path / "images" / name).touch()
    assert saved(12) == sorted([*(f"{i:02d}.png" for i in range(12)), "2026.png", "1 (copy).png"])
    (tmp_path / "trajectory.gif").touch()
    (tmp_path / "notes.txt").touch()
    assert saved(4) == ["0.png", "1 (copy).png", "1.png", "2.png", "3.png"]
    assert not (tmp_path / "trajectory.gif").exists()  # it showed the earlier images
    assert (tmp_path / "notes.txt").exists()
