"""The audit for copies: the planted are found, honest photographs are flagged at no more than the stated rate."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import beta, binom
from torch import Tensor

from diffusion.data import tiles
from diffusion.data.duplicates import repeats
from diffusion.data.image import planes, read, square
from diffusion.metric.copies import EITHER_WAY, PIXELS, SHIFTED, Audit, Embedding, View, audit, miniature, nearest


def scenes(n: int, seed: int) -> Tensor:
    """Pictures of 32×32: smooth colours under texture, no two alike."""
    g = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(n, 3, 5, 5, generator=g), size=(32, 32), mode="bicubic")
    fine = F.interpolate(torch.rand(n, 3, 16, 16, generator=g) - 0.5, size=(32, 32), mode="bilinear")
    return ((smooth + 0.3 * fine).clamp(0, 1) * 255).round().to(torch.uint8)


TRAIN, HELD = scenes(400, seed=1), scenes(199, seed=2)


def audited(samples: Tensor, train: Tensor = TRAIN, held_out: Tensor = HELD, rate: float = 0.01) -> Audit:
    """By pixels, with the project's near-duplicates for repeats."""
    return audit(samples, train, held_out, {"pixels": PIXELS}, lambda x: repeats(x, train, SHIFTED), rate)


@pytest.fixture(scope="module")
def photographs() -> tuple[Tensor, Tensor]:
    """Tiles of 32×32 pixels of some of the bundled photographs: 300 for training, 150 of others."""

    def cut(files: list[str], n: int) -> Tensor:
        found = []
        for name in files:
            photo = read(tiles.HERE / "photos" / name)
            found += [planes(square(photo, 32, window.box)) for window, _ in tiles._candidates(name, photo)[:n]]
        return torch.from_numpy(np.stack(found))

    files = tiles.split_photos()
    return cut(files["train"][:6], 50), cut(files["val"][:5], 30)


def no_repeats(images: Tensor) -> Tensor:
    """None repeats a training image."""
    return torch.zeros(len(images), dtype=torch.bool)


def jpeg(images: Tensor) -> Tensor:
    read = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=60)
        read.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(read)


def noisy(images: Tensor) -> Tensor:
    noise = 15 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).clamp(0, 255).round().to(torch.uint8)


ALTERED = {
    "exact": lambda x: x,
    "flipped": lambda x: x.flip(-1),
    "jpeg": jpeg,
    "rolled": lambda x: x.roll(1, dims=-1),
    "shifted": View(down=-1),
    "flipped and shifted askew": View(mirrored=True, down=1, right=-1),
    "noisy": noisy,
    "flipped and noisy": lambda x: noisy(x.flip(-1)),
}


@pytest.mark.parametrize("how", ALTERED)
def test_planted_copies_are_flagged_and_named(how: str) -> None:
    copied = torch.arange(0, 400, 10)
    found = audited(ALTERED[how](TRAIN[copied]))
    assert found.share == 1.0
    assert torch.equal(found.nearest["pixels"].index, copied)
    mirrored = {SHIFTED[i].mirrored for i in found.nearest["pixels"].view.tolist()}
    assert mirrored == {"flipped" in how}


@pytest.mark.parametrize("how", ALTERED)
def test_copies_of_photographs_are_flagged_and_told_as_repeats(how: str, photographs: tuple[Tensor, Tensor]) -> None:
    train, held_out = photographs
    found = audited(ALTERED[how](train), train, held_out)
    assert found.share >= 0.99
    assert found.repeats.double().mean() >= 0.9  # JPEG of quality 60 moves some miniatures by more than 8/255


def test_shifts_are_seen_through_because_there_is_a_view_of_them(photographs: tuple[Tensor, Tensor]) -> None:
    train, held_out = photographs
    rolled, plain = train.roll((1, 1), dims=(-2, -1)), {"plain": Embedding(miniature, EITHER_WAY)}
    assert audit(rolled, train, held_out, plain, lambda x: repeats(x, train)).share < 0.5
    assert audited(rolled, train, held_out).share >= 0.99


def test_held_out_repeats_do_not_blind_the_audit() -> None:
    held_out = torch.cat([HELD, TRAIN[:2], View(mirrored=True)(TRAIN[2:4])])
    found = audited(TRAIN[:100], held_out=held_out)
    assert found.left_out == 4
    assert found.thresholds == audited(TRAIN[:1]).thresholds
    assert found.share == 1.0
    with pytest.raises(ValueError, match="all 5 held-out images repeat training images"):
        audited(HELD, held_out=TRAIN[:5])


def test_few_copies_are_told_from_chance() -> None:
    found = audited(torch.cat([TRAIN[:4], scenes(246, seed=5)]))
    assert found.repeats[:4].all()
    assert int(found.repeats.sum()) == 4
    assert {i for i, _ in found.closest(4)} == {0, 1, 2, 3}


def test_held_out_photographs_are_flagged_at_no_more_than_the_rate() -> None:
    for rate in (0.01, 0.1):
        found = audited(scenes(2000, seed=3), rate=rate)
        assert found.rate == pytest.approx(rate)
        # Of 2000 honest ones k are flagged: beta-binomial, since the threshold itself is drawn.
        k = round(rate * 200)
        p = beta.ppf(1 - 1e-3, k, 200 - k)
        assert int(found.flagged.sum()) <= binom.ppf(1 - 1e-3, 2000, p)
    assert found.share > 0.02  # at a rate of 10% some are: the threshold is not idle


def test_the_rate_is_shared_by_embeddings_and_told_where_it_can_not_be_kept() -> None:
    two = audit(HELD[:3], TRAIN, HELD, {"pixels": PIXELS, "again": PIXELS}, no_repeats, rate=0.02)
    assert two.rate == pytest.approx(0.02)
    assert two.thresholds["pixels"] == audited(HELD[:3]).thresholds["pixels"]
    assert audited(HELD[:3], held_out=HELD[:9]).rate == pytest.approx(0.1)


def test_either_embedding_flags() -> None:
    blind = Embedding(lambda x: torch.rand(len(x), 4, generator=torch.Generator().manual_seed(len(x))))
    found = audit(TRAIN[:5], TRAIN, HELD, {"blind": blind, "pixels": PIXELS}, no_repeats)
    assert found.flagged.all()
    assert found.closest(2)[0][1] == "pixels"


def test_nearest_is_the_brute_force_one() -> None:
    seen, train = PIXELS.seen(HELD[:20]).double(), miniature(TRAIN).double()
    found = nearest(seen, train)
    least, view = torch.cdist(seen, train.expand(len(seen), -1, -1)).min(dim=0)
    sorted_, order = least.sort(dim=1)
    assert torch.equal(found.index, order[:, 0])
    torch.testing.assert_close(found.ratio, sorted_[:, 0] / sorted_[:, :50].mean(dim=1))
    assert torch.equal(found.view, view[torch.arange(20), order[:, 0]])


def test_a_view_moves_pixels_and_keeps_edges() -> None:
    moved = View(mirrored=True, down=1, right=-1)(HELD)
    assert torch.equal(moved[..., 1:, 1:], HELD[..., :-1, 1:].flip(-1))
    assert torch.equal(moved[..., 0, :], moved[..., 1, :])
    assert torch.equal(View()(HELD), HELD)
    assert len(set(SHIFTED)) == 18
    assert SHIFTED[0] == View()


def test_the_interval_is_clopper_and_pearsons() -> None:
    def of(k: int, n: int) -> tuple[float, float]:
        flagged = torch.arange(n) < k
        return Audit(flagged, flagged, {}, {}, 0.01, 0).interval()

    assert of(0, 50) == pytest.approx((0.0, 1 - 0.025 ** (1 / 50)))
    assert of(5, 50) == pytest.approx((beta.ppf(0.025, 5, 46), beta.ppf(0.975, 6, 45)))


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 and 1 at least"):
        audited(HELD, TRAIN[:1])
