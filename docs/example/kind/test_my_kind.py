"""The kind: its numbers enter the diffusion process standardised and come out again, and pictures show the bars."""

from pathlib import Path

import numpy as np
import torch
from my_kind import MyKind

from diffusion.data import Arrays


def test_counts_are_standardised_and_come_back():
    data = Arrays(root=Path(__file__).parent / "my_kind.npz", resolution=32, kind=MyKind(), val=40, test=40)
    data.setup()
    counts = data.splits["train"].images
    x = data.kind.inside(counts)
    assert x.shape == (320, 1, 32)
    assert abs(float(x.mean())) < 1e-3
    torch.testing.assert_close(data.kind.outside(x), counts, atol=1e-2, rtol=1e-3)


def test_a_picture_shows_the_bars():
    picture = MyKind(height=4).pictures(torch.tensor([[[0.0, 1.0, 2.0]]]))
    assert picture.shape == (1, 1, 4, 12)
    assert np.array_equal((picture[0, 0] == 0).sum(0)[::4], [0, 2, 4])
