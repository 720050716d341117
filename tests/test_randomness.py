"""Random streams: Philox bit for bit, all bits of a seed count, and draws depend only on their seed."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion import randomness
from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser
from diffusion.process.objective import Simple
from diffusion.process.prediction import Eps
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import linear
from diffusion.randomness import Streams, philox, round_keys, seed_for, seeds_for

ONES = 2**32 - 1
SEED = 0x299F31D0A4093822  # its halves are the key of the third vector
PUBLISHED = [  # Random123, tests/kat_vectors: counter, key, words
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        SEED,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("counter", "key", "words"), PUBLISHED)
def test_philox_matches_the_random123_test_vectors(counter, key, words):
    c = torch.tensor(counter)[:, None, None]
    even, odd = philox(c[0::2], c[1::2], round_keys([key], CPU))
    assert (even[0].item(), odd[0].item(), even[1].item(), odd[1].item()) == words


def plain_philox(seed: int, block: int, draw: int) -> list[int]:
    """The words of a block, computed with Python integers."""
    c, k = [block, 0, draw, 0], [seed & ONES, seed >> 32]
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second & ONES, (first >> 32) ^ c[3] ^ k[1], first & ONES]
        k = [(k[0] + 0x9E3779B9) & ONES, (k[1] + 0xBB67AE85) & ONES]
    return c


def plain_normal(seed: int, draw: int, n: int, bits: int) -> list[float]:
    """The first n numbers of a draw, from 32-bit words or from 53 bits of two words."""
    found: list[float] = []
    block = 0
    while len(found) < n:
        words = plain_philox(seed, block, draw)
        if bits == 53:
            words = [(words[k] << 21) + (words[k + 1] >> 11) for k in (0, 2)]
        for u, v in zip(words[0::2], words[1::2], strict=True):
            radius, angle = math.sqrt(-2 * math.log((u + 1) / 2**bits)), 2 * math.pi * v / 2**bits
            found += [radius * math.cos(angle), radius * math.sin(angle)]
        block += 1
    return found[:n]


@pytest.mark.parametrize(("dtype", "bits", "error"), [(torch.float32, 32, 3e-6), (torch.float64, 53, 1e-14)])
def test_normal_numbers_follow_the_box_muller_transform(dtype, bits, error):
    streams = Streams([5, SEED])
    for draw in range(3):
        expected = torch.tensor([plain_normal(seed, draw, 23, bits) for seed in (5, SEED)], dtype=torch.float64)
        torch.testing.assert_close(streams.normal(23, dtype=dtype).double(), expected, rtol=0, atol=error)


def test_uniform_numbers_have_53_bits_or_24_without_float64(monkeypatch):
    streams = Streams([5, SEED])
    words = [[plain_philox(seed, 0, draw) for seed in (5, SEED)] for draw in range(2)]
    assert streams.uniform().tolist() == [((w[0] << 21) + (w[1] >> 11)) / 2**53 for w in words[0]]
    monkeypatch.setattr(randomness, "SINGLE", {"cpu"})
    single = streams.uniform()
    assert (single.dtype, single.tolist()) == (torch.float32, [(w[0] >> 8) / 2**24 for w in words[1]])


@pytest.mark.parametrize("word", [0, ONES])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 6.67), (torch.float64, 8.58)])
def test_extreme_philox_words_give_numbers_within_bounds(monkeypatch, word, dtype, most):
    monkeypatch.setattr(randomness, "philox", lambda even, odd, keys: (torch.full((2, 1, 1), word),) * 2)
    z = Streams([0]).normal(2, dtype=dtype).abs().max()
    assert z <= most
    assert (z > most - 0.02) == (word == 0)
    for types in (set(), {"cpu"}):
        monkeypatch.setattr(randomness, "SINGLE", types)
        assert (0 if word == 0 else 1 - 1e-7) <= float(Streams([0]).uniform()) < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_draws_of_an_example_depend_only_on_its_seed(monkeypatch, dtype):
    """Bit for bit: not on the batch, its size, its order, or the parts in which it is drawn."""
    seeds = [3, 2**40, 11, 5, 8, 13, 2**63 - 1]

    def drawn(order: list[int]) -> list[Tensor]:
        streams = Streams([seeds[i] for i in order])
        return [streams.uniform(), streams.normal(3, 5, 5, dtype=dtype), streams.normal(7, dtype=dtype)]

    whole = drawn(list(range(7)))
    for parts in (2**16, 16, 3):  # the last case draws 3 examples and 3 blocks at a time
        monkeypatch.setattr(randomness, "CACHED", parts)
        for order in ([0, 1, 2, 3, 4, 5, 6], [6, 2, 0], [4]):
            for mine, all_of_them in zip(drawn(order), whole, strict=True):
                assert torch.equal(mine, all_of_them[order])


def test_a_shorter_draw_is_a_prefix_and_a_second_draw_does_not_depend_on_the_kind_of_the_first():
    after = [Streams([1, 2]), Streams([1, 2]), Streams([1, 2])]
    after[0].uniform()
    after[1].stratified()
    first = after[2].normal(9)
    noise = [streams.normal(9) for streams in after]
    assert torch.equal(noise[0], noise[1])
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], first)
    assert torch.equal(Streams([1, 2]).normal(1000)[:, :9], first)


def test_successive_draws_of_stratified_times_differ():
    streams = Streams(range(4), batch_seed=3)
    first, second = streams.stratified(), streams.stratified()
    assert len({*((first - second) % 1).round(decimals=9).tolist()}) == 1  # the same distances
    assert not torch.equal(first, second)
    assert torch.equal(first, Streams(range(4), batch_seed=3).stratified())


def test_every_bit_of_a_seed_changes_the_draws():
    """Seeds that differ in one of 64 bits are as different as any others."""
    seeds = [SEED, *(SEED ^ 1 << bit for bit in range(64))]
    draws = Streams(seeds).normal(2000)
    assert torch.corrcoef(draws).fill_diagonal_(0).abs().max() < 5.2 / 2000**0.5  # 2080 pairs: once in 2400 trials
    assert len(set(Streams(seeds).uniform().tolist())) == 65
    assert torch.equal(Streams([-1]).normal(4), Streams([2**64 - 1]).normal(4))


def test_streams_for_a_different_number_of_images_are_refused() -> None:
    """They would broadcast: one stream would give three images the same noise."""
    images = torch.zeros(3, 1, 4, 4)
    denoiser = Denoiser(torch.nn.Identity(), linear(), Eps())
    denoiser.network.forward = lambda x, label: x  # type: ignore[method-assign]
    for draw in (
        lambda streams: streams.normal_like(images),
        lambda streams: Simple()(denoiser, images, streams),
        lambda streams: DDIM(2, eta=1.0)(denoiser, images, streams),
    ):
        with pytest.raises(UserError, match=r"^randomness: 1 random streams for 3 images; .*Streams.of\(3, "):
            draw(Streams([0]))
        draw(Streams.of(3, "train", 0))


@pytest.mark.parametrize("key", [(), (0,), (2**62, "train", 5), ("it's",)])
def test_the_seeds_of_a_batch_equal_those_of_its_images(key: tuple[int | str, ...]) -> None:
    last = [0, 7, 10**6]
    assert seeds_for(*key, last=last) == [seed_for(*key, each) for each in last]


def test_numpys_integers_in_a_key_are_the_same_as_pythons():
    assert seed_for(np.int64(5), "noise", np.uint8(2)) == seed_for(5, "noise", 2)
    assert seeds_for(np.int64(5), "noise", last=np.arange(2)) == seeds_for(5, "noise", last=range(2))
    assert (seed_for(5, "noise", 2), seed_for(7)) == (7148742231020731191, 843011692241435484)  # never change
