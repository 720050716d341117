"""Memorization: planted copies are found, and other photographs are flagged at most at the stated rate."""

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
from diffusion.data.image import planes, read, resized
from diffusion.metric.memorization import PIXELS, SHIFTED, Audit, Embedding, View, audit, chance, miniature, nearest


def scenes(n: int, seed: int) -> Tensor:
    """Different images of 32×32 pixels: smooth colours with texture."""
    g = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(n, 3, 5, 5, generator=g), size=(32, 32), mode="bicubic")
    fine = F.interpolate(torch.rand(n, 3, 16, 16, generator=g) - 0.5, size=(32, 32), mode="bilinear")
    return ((smooth + 0.3 * fine).clamp(0, 1) * 255).round().to(torch.uint8)


TRAIN, HELD = scenes(400, seed=1), scenes(199, seed=2)


def audited(
    samples: Tensor, train: Tensor = TRAIN, held_out: Tensor = HELD, rate: float = 0.01, **more: Embedding
) -> Audit:
    """The audit by pixels and `more`; images repeat if they are near-duplicates in any view."""
    return audit(samples, train, held_out, {"pixels": PIXELS} | more, lambda x: repeats(x, train, SHIFTED), rate)


@pytest.fixture(scope="module")
def real() -> dict[str, Tensor]:
    """32×32 tiles of a few bundled photographs: 300 for training, and 150 + 150 held-out ones of other photographs."""
    few = {split: files[:6] for split, files in tiles.split_photos().items()}
    photos = {file: read(tiles.HERE / "photos" / file) for files in few.values() for file in files}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILES", {"train": 300, "val": 150, "test": 150})
        patch.setattr(tiles, "split_photos", lambda: few)
        windows = tiles.choose_windows(photos)
    return {
        split: torch.from_numpy(np.stack([planes(resized(photos[w.photo], 32, w.box)) for w in chosen]))
        for split, chosen in windows.items()
    }


def jpeg(images: Tensor) -> Tensor:
    read = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=60)
        read.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(read)


def noisy(images: Tensor, std: float = 15) -> Tensor:
    noise = std * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).clamp(0, 255).round().to(torch.uint8)


def brighter(images: Tensor) -> Tensor:
    """Brighter by 7 grey levels."""
    return (images.int() + 7).clamp(max=255).to(torch.uint8)


ALTERED = {
    "exact": lambda x: x,
    "flipped": lambda x: x.flip(-1),
    "jpeg": jpeg,
    "noisy": noisy,
    "flipped and noisy": lambda x: noisy(x.flip(-1)),
    "rolled right": lambda x: x.roll(1, dims=-1),
    "shifted left": lambda x: torch.cat([x[..., 1:], x[..., -1:]], dim=-1),
    "shifted up": lambda x: torch.cat([x[..., 1:, :], x[..., -1:, :]], dim=-2),
    "rolled diagonally": lambda x: x.roll((1, 1), dims=(-2, -1)),
    "flipped and rolled diagonally": lambda x: x.flip(-1).roll((1, 1), dims=(-2, -1)),
}


@pytest.mark.parametrize("how", ALTERED)
def test_planted_copies_are_flagged_with_their_training_images(how: str) -> None:
    copied = torch.arange(0, 400, 10)
    found = audited(ALTERED[how](TRAIN[copied]))
    assert found.share == 1.0
    assert torch.equal(found.nearest["pixels"].index, copied)
    mirrored = [PIXELS.views[i].mirrored for i in found.nearest["pixels"].view.tolist()]
    assert mirrored == [how.startswith("flipped")] * 40


@pytest.mark.parametrize("how", ALTERED)
def test_planted_copies_of_photographs_are_flagged(real: dict[str, Tensor], how: str) -> None:
    found = audited(ALTERED[how](real["train"]), real["train"], real["val"])
    assert found.share >= 0.99
    assert (found.nearest["pixels"].index == torch.arange(300)).double().mean() >= 0.99


def test_the_false_positive_rate_on_held_out_tiles_is_bounded(real: dict[str, Tensor]) -> None:
    held = torch.cat([real["val"], real["test"]])[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    for rate in (0.02, 0.1):
        found = audited(held[:150], real["train"], held[150:], rate)
        m = 150 - found.left_out
        k = round(found.rate * (m + 1))
        assert 0 < found.rate <= rate
        most = binom.ppf(1 - 1e-3, 150, beta.ppf(1 - 1e-3, k, m + 1 - k))
        assert int((found.flagged & ~found.repeats).sum()) <= most
    assert found.share > 0.02


def test_a_view_shifts_with_replicated_edges_then_mirrors() -> None:
    x = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
    assert View()(x).tolist() == x.tolist()
    assert View(down=1)(x)[0, 0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    assert View(right=-1)(x)[0, 0].tolist() == [[1, 2, 2], [4, 5, 5], [7, 8, 8]]
    assert View(mirrored=True, down=-1, right=1)(x)[0, 0].tolist() == [[4, 3, 3], [7, 6, 6], [7, 6, 6]]
    assert len(set(SHIFTED)) == 18


def test_held_out_repeats_of_training_images_do_not_affect_the_threshold() -> None:
    sound = audited(TRAIN[:100])
    for repeat in (lambda x: x, ALTERED["flipped"], ALTERED["rolled diagonally"]):
        found = audited(TRAIN[:100], held_out=torch.cat([HELD, repeat(TRAIN[200:202])]))
        assert found.left_out == 2
        assert found.share == 1.0
        assert (found.thresholds, found.rate) == (sound.thresholds, sound.rate)
    with pytest.raises(ValueError, match="all 3 held-out images repeat training images"):
        audited(HELD, held_out=TRAIN[:3])


def test_samples_that_repeat_training_images_are_counted_separately() -> None:
    copied = torch.cat(
        [TRAIN[[3]], *(ALTERED[how](TRAIN[[3]]) for how in ("flipped", "shifted up")), brighter(TRAIN[[3]])]
    )
    found = audited(torch.cat([scenes(246, seed=4), copied]))
    assert found.interval()[0] < 0.01  # the share alone would not reveal them
    assert found.repeats.nonzero().flatten().tolist() == [246, 247, 248, 249]
    assert {i for i, _ in found.closest(4)} == {246, 247, 248, 249}
    assert not audited(scenes(50, seed=5)).repeats.any()


def test_not_all_flagged_samples_are_repeats_and_repeats_come_first() -> None:
    coarse = noisy(TRAIN[:20], std=22)  # RMS of 11 grey levels in miniatures of 16×16, 6 in those of 8×8
    found = audited(torch.cat([coarse, brighter(TRAIN[50:53])]))
    assert found.flagged.all()
    assert found.repeats.nonzero().flatten().tolist() == [20, 21, 22]
    assert {i for i, _ in found.closest(3)} == {20, 21, 22}


def test_repeats_of_an_image_with_many_near_duplicates_are_counted_and_come_first() -> None:
    copied = noisy(TRAIN[:1].expand(30, -1, -1, -1), std=5)
    found = audited(torch.cat([scenes(20, seed=4), copied]), torch.cat([TRAIN, TRAIN[:1].expand(60, -1, -1, -1)]))
    assert not found.flagged[20:].any()  # all ratios are 1
    assert found.repeats.nonzero().flatten().tolist() == list(range(20, 50))
    assert {i for i, _ in found.closest(30)} == set(range(20, 50))


def test_the_false_positive_rate_on_held_out_images_is_bounded() -> None:
    for rate in (0.01, 0.1):
        found = audited(scenes(2000, seed=3), rate=rate)
        assert found.rate == pytest.approx(rate)
        # The number of flagged images is beta-binomial, because the threshold is also random.
        k = round(rate * 200)
        p = beta.ppf(1 - 1e-3, k, 200 - k)
        assert int(found.flagged.sum()) <= binom.ppf(1 - 1e-3, 2000, p)
    assert found.share > 0.02  # at a rate of 10% some are flagged


@pytest.mark.parametrize("n", [250, 2048, 50_000])
@pytest.mark.parametrize("m", [249, 2499])
def test_chance_alone_is_called_copying_in_at_most_a_fortieth_of_audits(n: int, m: int) -> None:
    k = (m + 1) // 100
    random = np.random.default_rng(0)
    thresholds = np.partition(random.random((4000, m)), k - 1, axis=1)[:, k - 1]  # ratios uniform in 0 … 1
    counts, times = np.unique(random.binomial(n, thresholds), return_counts=True)
    alarms = times[[chance(int(x), n, k, m) < 0.025 for x in counts]].sum()
    assert alarms <= binom.ppf(1 - 1e-4, 4000, 0.025)
    if n > 250:
        assert alarms > 4000 * 0.01  # not much rarer either
    copied = n // 10
    found = [chance(copied + int(x), n, k, m) < 0.025 for x in random.binomial(n - copied, thresholds[:100])]
    assert sum(found) > 95


def test_the_p_value_is_that_of_the_embedding_which_flags_the_most_times_their_number() -> None:
    blind = Embedding(lambda x: torch.rand(len(x), 4, generator=torch.Generator().manual_seed(len(x))))
    samples = torch.cat([TRAIN[:5], scenes(95, seed=6)])
    alone, both = audited(samples, rate=0.02), audited(samples, rate=0.04, blind=blind)
    assert alone.p_value == chance(5, 100, 4, 199) < 1
    assert both.p_value == 2 * alone.p_value
    assert audited(scenes(10, seed=6)).p_value == 1


def test_embeddings_share_the_rate_and_the_actual_rate_is_reported() -> None:
    two = audited(HELD[:3], rate=0.02, again=PIXELS)
    assert two.rate == pytest.approx(0.02)
    assert two.thresholds["pixels"] == audited(HELD[:3]).thresholds["pixels"]
    assert audited(HELD[:3], held_out=HELD[:9]).rate == pytest.approx(0.1)


def test_a_copy_found_by_only_one_embedding_is_flagged() -> None:
    blind = Embedding(lambda x: torch.rand(len(x), 4, generator=torch.Generator().manual_seed(len(x))))
    found = audited(TRAIN[:5], blind=blind)
    assert found.flagged.all()
    assert found.closest(2)[0][1] == "pixels"


def test_nearest_equals_brute_force() -> None:
    views, y = PIXELS.of_views(HELD[:20]).double(), miniature(TRAIN).double()
    found = nearest(views, y)
    d, view = torch.stack([torch.cdist(x, y) for x in views]).min(dim=0)  # (20, 400)
    sorted_, order = d.sort(dim=1)
    assert torch.equal(found.index, order[:, 0])
    torch.testing.assert_close(found.ratio, sorted_[:, 0] / sorted_[:, :50].mean(dim=1))
    assert torch.equal(found.view, view[torch.arange(20), order[:, 0]])
    assert len(found.view.unique()) > 5


def test_the_interval_is_the_clopper_pearson_interval() -> None:
    def of(k: int, n: int) -> tuple[float, float]:
        return Audit(torch.arange(n) < k, torch.zeros(n), {}, {}, 1, 99, 0).interval()

    assert of(0, 50) == pytest.approx((0.0, 1 - 0.025 ** (1 / 50)))
    assert of(5, 50) == pytest.approx((beta.ppf(0.025, 5, 46), beta.ppf(0.975, 6, 45)))


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 2 and 1"):
        audited(HELD, TRAIN[:1])
