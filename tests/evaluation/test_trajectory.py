"""The denoising steps of samples as images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.evaluation.frames import MOST_FRAMES, Frames
from diffusion.process.denoiser import Estimate
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import Flow, linear
from diffusion.report import figures


@pytest.mark.parametrize("steps", [1, 3, 99, 100, 101, 150, 199, 200, 1000])
def test_at_most_100_steps_are_kept_including_the_first_and_last(steps: int, tmp_path: Path) -> None:
    frames, x = Frames(DDIM(steps=steps), linear()), torch.zeros(9, 3, 2, 2)
    for first in (0, 9):
        for k in range(1, steps + 1):
            frames.watch(first, k, x + k / steps - first, Estimate(x, x, x))  # a second batch, of black images
    kept = list(frames.pairs)
    assert all(int(pair[0].max()) > 0 for pair in frames.pairs.values())
    assert len(kept) == min(steps, MOST_FRAMES)
    assert (kept[0], kept[-1]) == (1, steps)
    assert max(b - a for a, b in zip(kept, kept[1:] or kept, strict=False)) <= -(-steps // 99)
    if steps == 101:
        frames.save(tmp_path, 4)
        assert Image.open(tmp_path / "trajectory.gif").width == 8 * (2 + 16 * 2) - 2
        assert (tmp_path / "trajectory.png").is_file()


@pytest.mark.parametrize(
    ("schedule", "levels"),
    [(linear(), ["17.25", "3.424", "0.9529", "0"]), (Flow(), ["3", "1", "0.3333", "0"])],  # sqrt(1/ᾱ − 1); t/(1 − t)
)
def test_each_column_is_labelled_with_its_time_and_noise_level(schedule: figures.Schedule, levels: list[str]) -> None:
    figure = figures.trajectory(torch.zeros(4, 2, 3, 4, 4, dtype=torch.uint8), [0.75, 0.5, 0.25, 0.0], schedule)
    *shown, label = [text.get_text() for text in figure.texts]
    assert shown == [f"{t}\n{level}" for t, level in zip((750, 500, 250, 0), levels, strict=True)]
    assert label == "$t$ =\n$\\sigma_t/\\alpha_t$ ="
    black = (np.asarray(figure.axes[0].get_images()[0].get_array()) == 0).all(-1)
    across, down = black.any(0), black.any(1)
    assert [len(np.flatnonzero(np.diff(line, prepend=False) & line)) for line in (across, down)] == [4, 2]
