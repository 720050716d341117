"""Counter-based randomness: each draw is a function of (seed, purpose, counters), never of earlier draws.

A resumed run therefore equals an uninterrupted one, two devices give the same numbers as one, and two recipes with the
same seed see the same images, times and noise. Any module may import this one.
"""

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from diffusion.errors import UserError

Seeds = Sequence[int]
GOLDEN = (5**0.5 - 1) / 2  # its multiples mod 1 are evenly spread, however many there are
SINGLE = {"mps"}  # device types without float64


def seed_for(*key: int | str) -> int:
    """A 63-bit hash of `key`, e.g. `seed_for(seed, "noise", epoch, index)`, identical on every machine."""
    plain = tuple(part if isinstance(part, str) else int(part) for part in key)  # numpy's integers have another repr
    return int.from_bytes(hashlib.blake2b(repr(plain).encode(), digest_size=8).digest(), "little") >> 1


def seeds_for(*key: int | str, last: Iterable[int]) -> list[int]:
    """`seed_for(*key, each)` for each number in `last`, such as image indices."""
    return [seed_for(*key, each) for each in last]


def generator_for(*key: int | str) -> torch.Generator:
    """A new torch generator on the CPU, seeded with `seed_for(*key)`, of which it only uses the lowest 32 bits."""
    return torch.Generator().manual_seed(seed_for(*key))


def real_dtype(device: torch.device) -> torch.dtype:
    """The dtype of times and coefficients: float64, or float32 on Apple's MPS, which has no float64."""
    return torch.float32 if device.type in SINGLE else torch.float64


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to a device without waiting for its previous work; MPS may read freed values (pytorch/pytorch#189690)."""
    return values.to(device, non_blocking=device.type != "mps")


# Blocks drawn in one chunk, so intermediate values stay in the CPU's cache, or small on a GPU.
CACHED, QUEUED = 2**16, 2**20
LOW = 2**32 - 1  # mask of the lower half of a 64-bit word
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # increments of the key per round
ROUNDS = 10


def round_keys(seeds: Seeds, device: torch.device) -> Tensor:
    """The keys of Philox's rounds, (10, 2, B, 1). The key is the lower and the upper half of the seed modulo 2⁶⁴."""
    words = torch.tensor([(seed + 2**63) % 2**64 - 2**63 for seed in seeds], dtype=torch.int64)  # signed: the same bits
    low, rounds = to_device(words, device), torch.arange(ROUNDS, device=device)[:, None]
    high = low >> 32  # the mask removes the bits above each half
    return torch.stack([low + rounds * WEYL[0], high + rounds * WEYL[1]], dim=1)[..., None] & LOW


def philox(even: Tensor, odd: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Philox 4×32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): 10 rounds of
        (c_0, c_1, c_2, c_3) ← (⌊M_1 c_2 / 2³²⌋ ⊕ c_1 ⊕ k_0, M_1 c_2, ⌊M_0 c_0 / 2³²⌋ ⊕ c_3 ⊕ k_1, M_0 c_0) mod 2³².

    The words are stored as int64, because torch cannot multiply unsigned integers. A product wraps around to the same
    64 bits; the right shift extends its sign into the upper half, which the mask removes.

    `even` are c_0 and c_2, `odd` c_1 and c_3, and so are the two results, (2, …) each; `keys` are k_0 and k_1 of each
    round, (10, 2, …).
    """
    for key in keys:
        product = torch.empty_like(even)
        torch.mul(even[1], MULTIPLIERS[1], out=product[0])
        torch.mul(even[0], MULTIPLIERS[0], out=product[1])
        even = product >> 32
        even ^= odd
        even = even ^ key  # not in place: it broadcasts in the first round
        even &= LOW
        odd = product  # its upper half is masked out in the next round
    return even, odd & LOW


class Streams:
    """One random stream per example: example i draws from `seeds[i]`, whatever else is in the batch.

    Equal seeds give equal draws, so a training loop needs new seeds at each step: `Streams.of(B, "train", step)`.
    Block j (four words) of draw d of an example is a function of (seed, d, j): Philox with the seed as its key and the
    counter (j, 0, d, 0). Numbers are the same on every type of device, up to its rounding of log, cos and sin.

    Args:
        seeds: one seed for each of the B examples, used modulo 2⁶⁴.
        device: device on which the numbers are drawn.
        batch_seed: for `stratified` and `shared`: a seed shared by all examples of the batch; None: a hash of `seeds`.
        first: for `stratified`: the position of the first of these examples in the batch.
        batch_size: for `stratified`: the size of the whole batch; None: the number of `seeds`.
    """

    def __init__(
        self,
        seeds: Seeds,
        device: torch.device | str = "cpu",
        batch_seed: int | None = None,
        first: int = 0,
        batch_size: int | None = None,
    ):
        self.device = torch.device(device)
        self.keys = round_keys(seeds, self.device)
        self.host_keys = self.keys if self.device.type == "cpu" else round_keys(seeds, torch.device("cpu"))
        self.draws = itertools.count()  # successive draws differ, whatever their type
        self.batch_seed = seed_for("batch", *seeds) if batch_seed is None else batch_seed
        self.first, self.batch_size = first, len(seeds) if batch_size is None else batch_size

    @classmethod
    def of(cls, n: int, *key: int | str, device: torch.device | str = "cpu") -> "Streams":
        """n streams with seeds derived from `key` and their index, such as `Streams.of(8, "train", step)`."""
        return cls(seeds_for(*key, last=range(n)), device)

    def __len__(self) -> int:
        return self.keys.shape[2]

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """N(0, 1) of shape (B, *shape), by the Box-Muller transform z = √(−2 log u) (cos 2πv, sin 2πv).

        In float64, u and v have 53 bits, and |z| ≤ 8.58; else they have 32 bits, rounded to float32, and |z| ≤ 6.67.
        """
        real = torch.float64 if dtype == torch.float64 else torch.float32
        pairs, bits = (1, 53) if real == torch.float64 else (2, 32)  # pairs of numbers per block of four words
        n = math.prod(shape)
        blocks, draw = -(-n // (2 * pairs)), next(self.draws)
        out = torch.empty(len(self), blocks, pairs, 2, dtype=real, device=self.device)
        most = CACHED if self.device.type == "cpu" else QUEUED
        rows = max(1, most // max(1, blocks))
        for i, first in itertools.product(range(0, len(self), rows), range(0, blocks, most)):
            z = out[i : i + rows, first : first + most].permute(2, 0, 1, 3)  # (pairs, examples, blocks, 2)
            u, v = _words(draw, first, min(first + most, blocks), self.keys[:, :, i : i + rows])
            if real == torch.float64:
                u, v = _joined(u, v).split(1)
            radius = (u + 1).to(real).mul_(2.0**-bits).log_().mul_(-2).sqrt_()  # u in (0, 1]
            angle = v.to(real).mul_(2 * math.pi * 2.0**-bits)
            torch.mul(radius, angle.cos(), out=z[..., 0])
            torch.mul(radius, angle.sin_(), out=z[..., 1])
        return out.flatten(1)[:, :n].reshape(len(self), *shape).to(dtype).contiguous()

    def normal_like(self, x: Tensor, *times: int) -> Tensor:
        """N(0, 1) of shape (B, *times, ...) and with the dtype of `x` (B, ...). Raises UserError for another B."""
        if len(x) != len(self):
            words = f"randomness: {len(self)} random streams for {len(x)} images"
            raise UserError(f'{words}; pass one per image, such as Streams.of({len(x)}, "train", step)')
        return self.normal(*times, *x.shape[1:], dtype=x.dtype)

    def uniform(self) -> Tensor:
        """U[0, 1) of shape (B,), in `real_dtype`: multiples of 2⁻⁵³, or in float32 their first 24 bits."""
        dtype = real_dtype(self.device)  # drawn on the CPU: launching the operations on a GPU takes longer
        bits = 53 if dtype == torch.float64 else 24
        word = _joined(*_words(next(self.draws), 0, 1, self.host_keys))[0, :, 0]
        return to_device((word >> 53 - bits).to(dtype) * 2.0**-bits, self.device)

    def stratified(self) -> Tensor:
        """U[0, 1) of shape (B,), in `real_dtype`, evenly spaced: u_i = (u + i/n) mod 1 for example i of n."""
        u = seed_for("stratified", self.batch_seed, next(self.draws)) / 2**63
        i = self.first + torch.arange(len(self), dtype=real_dtype(self.device), device=self.device)  # a copy would wait
        return (u + i / self.batch_size) % 1

    def shared(self) -> float:
        """A single U[0, 1) for the whole batch, as a function of its seed."""
        return seed_for("shared", self.batch_seed, next(self.draws)) / 2**63


def _words(draw: int, first: int, end: int, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The words of blocks `first`, …, `end` − 1 of a draw: `philox`'s even and odd words, (2, B, end − first)."""
    block = torch.arange(first, end, device=keys.device)
    even = torch.stack([block, torch.full_like(block, draw)])[:, None]
    return philox(even, torch.zeros_like(even), keys)


def _joined(even: Tensor, odd: Tensor) -> Tensor:
    """Combine two words into 53 bits, the even word first."""
    return (even << 21) | (odd >> 11)


def proportional(counts: Sequence[int], n: int) -> Tensor:
    """Classes in the proportions of `counts`, to within about two images of each, (n,) int64.

    Sample i gets the class at the quantile (i + ½)·golden ratio mod 1, for every n.
    """
    ends = torch.tensor(counts, dtype=torch.float64).cumsum(0) / max(1, sum(counts))
    quantiles = (torch.arange(n, dtype=torch.float64) + 0.5) * GOLDEN % 1
    return torch.searchsorted(ends, quantiles, right=True).clamp(max=len(counts) - 1)
