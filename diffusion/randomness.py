"""Counter-based randomness: each draw is a function of (seed, purpose, counters), never of earlier draws.

So a resumed run equals an uninterrupted one, two devices give the same numbers as one, and two recipes with the same
seed see the same images, times and noise. Every module may import this one.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffusion.errors import UserError

WORDS = 624  # of 32 bits: the state of the Mersenne Twister, torch's generator on the CPU


def seed_for(*key: int | str) -> int:
    """A 63-bit hash of `key`, e.g. `seed_for(seed, "noise", epoch, index)`. It is the same on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator seeded with `seed_for(*key)`, of which the CPU's keeps the lowest 32 bits."""
    return torch.Generator(device).manual_seed(seed_for(*key))


def stream(seed: int, device: torch.device) -> torch.Generator:
    """A fresh torch generator that depends on all bits of `seed`.

    `manual_seed` keeps only 32 bits on the CPU, so among the 500,000 images of a short training about 30 pairs would
    have the same noise. The words of the state are therefore SHAKE-128 of the seed.
    """
    generator = torch.Generator(device)
    state = generator.get_state()
    if state.nbytes < 8 * WORDS:  # another kind, such as CUDA's, which keeps all bits
        return generator.manual_seed(seed)
    words = torch.frombuffer(bytearray(hashlib.shake_128(str(seed).encode()).digest(4 * WORDS)), dtype=torch.uint32)
    state.view(torch.int64)[3 : 3 + WORDS] = words.to(torch.int64)  # after the seed and the place in the block
    return generator.set_state(state)


SINGLE = {"mps"}  # device types without float64


def real_dtype(device: torch.device) -> torch.dtype:
    """The dtype of times and coefficients: float64, or float32 on Apple's MPS, which has no float64."""
    return torch.float32 if device.type in SINGLE else torch.float64


@contextlib.contextmanager
def rewinding(device: torch.device) -> Iterator[None]:
    """After this context, torch's own generators of the CPU and of `device` are where they were before it.

    So a network that is called within it and then once more draws the same dropout both times.
    """
    kinds = [torch] if device.type == "cpu" else [torch, getattr(torch, device.type)]
    states = [kind.get_rng_state() for kind in kinds]
    try:
        yield
    finally:
        for kind, state in zip(kinds, states, strict=True):
            kind.set_rng_state(state)


class Streams:
    """One random stream per example: example i draws from `seeds[i]`, whatever else is in the batch.

    Equal seeds give equal draws, so a training loop needs other seeds at each step: `Streams.of(B, "train", step)`. The
    idea is that of EDM's StackedRandomGenerator. The numbers do not depend on how many devices share the batch, but
    they do depend on the type of device, because CPU and CUDA generators differ.

    Args:
        seeds: one seed for each of the B examples.
        device: where the numbers are drawn.
        batch_seed: for `stratified`: a seed that all examples of the batch share; None: a hash of `seeds`.
        positions: for `stratified`: the positions of these examples in the batch; None: they are the whole batch.
        batch_size: for `stratified`: the size of the whole batch; None: the number of `seeds`.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        batch_seed: int | None = None,
        positions: range | None = None,
        batch_size: int | None = None,
    ):
        self.device = torch.device(device)
        self.generators = [stream(seed, self.device) for seed in seeds]
        self.batch_seed = seed_for("batch", *seeds) if batch_seed is None else batch_seed
        self.positions = range(len(seeds)) if positions is None else positions
        self.batch_size = len(seeds) if batch_size is None else batch_size

    @classmethod
    def of(cls, n: int, *key: int | str, device: torch.device | str = "cpu") -> "Streams":
        """n streams whose seeds are functions of `key` and of their place, such as `Streams.of(8, "train", step)`."""
        return cls([seed_for(*key, i) for i in range(n)], device)

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """N(0, 1) of shape (B, *shape)."""
        out = torch.empty(len(self), *shape, dtype=dtype, device=self.device)
        for row, generator in zip(out, self.generators, strict=True):
            row.normal_(generator=generator)
        return out

    def normal_like(self, x: Tensor, *times: int) -> Tensor:
        """N(0, 1) with the dtype of `x` (B, ...), of shape (B, *times, ...): as many of them for each example.

        Raises UserError for another number of examples than B.
        """
        if len(x) != len(self):
            raise UserError(
                f"randomness: {len(self)} random streams for {len(x)} images; give one to each image, such as "
                f'Streams.of({len(x)}, "train", step)'
            )
        return self.normal(*times, *x.shape[1:], dtype=x.dtype)

    def uniform(self) -> Tensor:
        """U[0, 1) of shape (B,), in `real_dtype`."""
        dtype = real_dtype(self.device)
        return torch.stack([torch.rand((), generator=g, device=self.device, dtype=dtype) for g in self.generators])

    def stratified(self) -> Tensor:
        """U[0, 1) of shape (B,), in `real_dtype`, evenly spread: u_i = (u + i/n) mod 1 for example i of n."""
        first = float(torch.rand((), generator=torch.Generator().manual_seed(self.batch_seed), dtype=torch.float64))
        # Created on the device: copying them there would wait for all of its queued work.
        p, dtype = self.positions, real_dtype(self.device)
        places = torch.arange(p.start, p.stop, p.step, dtype=dtype, device=self.device)
        return (first + places / self.batch_size) % 1
