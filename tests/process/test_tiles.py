"""Windows of a network's size over a larger picture."""

import torch
import torch.nn.functional as F

from diffusion.process.denoiser import Estimate
from diffusion.process.schedule import sigmoid
from diffusion.process.tiles import Tiled

SIZE, WHOLE = (16, 16), (52, 90)


class Network:
    """A denoiser of 16×16 images whose estimates, as a network's, differ at the border, where it pads with zeros."""

    def __init__(self, pad: bool):
        self.schedule, self.pad, self.seen = sigmoid(), pad, 0
        self.kernel = torch.full((3, 1, 5, 5), 0.04)

    def __call__(self, x_t, t, picture=None, classes=None, vector=None):
        assert x_t.shape[2:] == SIZE
        self.seen += len(x_t)
        x0 = F.conv2d(x_t + 1, self.kernel, padding=2, groups=3) if self.pad else x_t
        if picture is not None:
            x0 = x0 + picture[:, :3] + classes.view(-1, 1, 1, 1) + vector[:, :1, None, None]
        return Estimate(x0, x_t - x0)


def test_estimates_that_depend_on_no_neighbours_are_those_of_the_whole_picture():
    """Pictures are cut as x_t is; classes and vectors belong to the images."""
    x, picture = torch.randn(2, 3, *WHOLE), torch.randn(2, 4, *WHOLE)
    classes, vector = torch.tensor([3, 5]), torch.tensor([[0.25, 1], [0.5, 1]])
    found = Tiled(Network(pad=False), SIZE)(x, torch.full((2,), 0.5), picture, classes=classes, vector=vector)
    expected = x + picture[:, :3] + (classes + vector[:, 0]).view(2, 1, 1, 1)
    torch.testing.assert_close(found.x0, expected)
    torch.testing.assert_close(found.x0 + found.eps, x)


def test_windows_begin_where_the_small_picture_has_pixels():
    for unit in (1, 2, 4):
        windows = [*Tiled(Network(pad=False), SIZE, unit).windows(52, 90 + 2 * (unit == 4))]
        rows, columns = (sorted({window[axis].start for window in windows}) for axis in (1, 2))
        assert not any(begin % unit for begin in rows + columns)
        assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, 36, 74 + 2 * (unit == 4))


def test_no_seams_where_windows_begin_and_end():
    """Differences of neighbouring pixels across the borders of windows are as large as all others."""
    x, t = torch.randn(8, 3, *WHOLE, generator=torch.Generator().manual_seed(0)), torch.full((8,), 0.5)

    def ratio(denoise, windows):
        steps = denoise(x, t).x0.diff(dim=3).square().mean(dim=(0, 1, 2))
        borders = {edge - 1 for w in windows for edge in (w[2].start, w[2].stop) if 0 < edge < WHOLE[1]}
        inside = [k for k in range(3, WHOLE[1] - 4) if k not in borders]
        return float(steps[[*borders]].mean() / steps[inside].mean())

    tiled = Tiled(Network(pad=True), SIZE)
    windows = [*tiled.windows(*WHOLE)]
    assert len(windows) == 4 * 8

    def mosaic(x, t):
        """The same windows, each laid over those before it."""
        whole = torch.zeros_like(x)
        for window in windows:
            whole[window] = tiled.denoise(x[window], t).x0
        return Estimate(whole, x - whole)

    assert ratio(mosaic, windows) > 2
    assert abs(ratio(tiled, windows) - 1) < 0.1
