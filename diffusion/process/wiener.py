"""The best linear denoiser of a training set, the Wiener filter: what a network has not learned if it is worse.

Of all denoisers A x_t + b, the one with the least mean square error for images of mean µ and covariance C is
    µ + C (C + s² I)⁻¹ (x_t/alpha − µ) = x_t/alpha − s² (C + s² I)⁻¹ (x_t/alpha − µ),    s = sigma/alpha.
"""

import math

import torch
from torch import Tensor

from diffusion.process.floor import Atoms

LARGEST = 32 * 32  # pixels of an image whose covariance has a number for each two values


class Wiener:
    """The Wiener filter of the atoms, in float64. It does not use their labels.

    For images of more pixels than `LARGEST`, C is that of images shifted around in all ways: the discrete Fourier
    transform turns it into a covariance of the channels for each frequency.
    """

    def __init__(self, atoms: Atoms):
        self.shape, n = atoms.images.shape[1:], len(atoms)
        self.shifted = math.prod(self.shape[1:]) > LARGEST
        self.mean = sum((known.double().sum(dim=0) for _, known in atoms.parts()), torch.zeros(())) / n
        rows = (self.rows(known) for _, known in atoms.parts())
        self.covariance = sum((each.mH @ each for each in rows), torch.zeros(())) / n  # (G, M, M)

    def rows(self, x: Tensor) -> Tensor:
        """x (n, D) − µ as vectors (G, n, M) of G groups that are not correlated: all values, or each frequency."""
        x = x.double() - self.mean
        if not self.shifted:
            return x[None]
        return torch.fft.fft2(x.view(-1, *self.shape), norm="ortho").flatten(2).permute(2, 0, 1)

    def __call__(self, x: Tensor, level: float) -> Tensor:
        """The estimates of x0 (n, D) from x = x_t/alpha (n, D) at sigma/alpha = level."""
        noisy = self.covariance + level**2 * torch.eye(self.covariance.shape[-1])
        noise = torch.linalg.solve(noisy, self.rows(x), left=False)
        if self.shifted:
            noise = torch.fft.ifft2(noise.permute(1, 2, 0).reshape(-1, *self.shape), norm="ortho").real
        return x - level**2 * noise.reshape(x.shape)
