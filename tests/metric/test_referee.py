"""The referee: real photographs pass, cheats do not, and its errors are those that it states."""

import pytest
import torch
from torch import Tensor

from diffusion.data import Landscapes
from diffusion.metric import referee
from diffusion.metric.denoising import numbered
from diffusion.metric.photographs import real_sets
from diffusion.metric.referee import apart, compare, convolutions, divided, energy, judge, look, margins

g = torch.Generator().manual_seed(0)


def tiles(photographs: int, each: int, spread: float = 0.6) -> Tensor:
    """What an eye may see of tiles: photographs are random means, around which their tiles are."""
    means = spread * torch.randn(photographs, 1, 8, generator=g)
    return (means + torch.randn(photographs, each, 8, generator=g)).flatten(0, 1)


def answers(samples: Tensor, train: Tensor, held_out: Tensor, photograph: Tensor) -> dict[str, str]:
    """The verdict of each answer, by one eye."""
    known = torch.arange(len(samples) + len(photograph)) - len(samples)
    known = (known >= 0) & (known < len(train))
    found = compare({"eye": apart(torch.cat([samples, train, held_out]))}, known, photograph)
    return {name: found[name]["verdict"] for name in ("further", "others") if name in found}


@pytest.mark.slow
def test_real_images_are_called_apart_as_rarely_as_stated_and_shifted_ones_always(monkeypatch) -> None:
    """30 photographs of 9 tiles: others of these, and further tiles of the same, in 20 worlds; 5% are 1."""
    monkeypatch.setattr(referee, "DRAWS", 199)
    photograph, called = torch.arange(30).repeat_interleave(9), {"further": 0, "others": 0}
    for _ in range(20):
        world = tiles(36, 18)
        real, further, others = world[: 30 * 18 : 2], world[1 : 24 * 18 : 2][::2], world[30 * 18 :]
        train, held_out = real[: 24 * 9], real[24 * 9 :]
        called["further"] += answers(further, train, held_out, photograph)["further"] == "apart"
        called["others"] += answers(others, train, held_out, photograph)["others"] == "apart"
    assert all(count <= 3 for count in called.values())  # 98% of binomial counts of 5%
    assert answers(others, train, held_out, photograph)["further"] == "apart"  # the sharp question
    assert answers(others + 2, train, held_out, photograph) == {"further": "apart", "others": "apart"}


def test_images_that_are_their_own_photographs_get_one_answer_and_too_few_samples_none() -> None:
    x = torch.randn(900, 8, generator=g)
    assert answers(x[:300], x[300:700], x[700:], torch.arange(600)) == {"further": "alike"}
    few = torch.zeros(199, 3, 8, 8, dtype=torch.uint8)
    assert judge(few, few, torch.ones(199, dtype=torch.bool), torch.arange(199), {}) == {"n": 199, "train": 199}


def test_few_samples_that_are_not_told_apart_are_not_alike_for_that() -> None:
    """30 samples of a distribution 1.25 times as wide: too few to tell them apart, or to show that they are near."""
    found = set()
    for seed in range(6):
        x = torch.randn(530, 8, generator=torch.Generator().manual_seed(seed))
        found.add(answers(1.25 * x[:30], x[30:], x[:0], torch.arange(500))["further"])
    assert found == {"apart", "unclear"}


def test_the_margins_of_all_eyes_hold_together() -> None:
    null = torch.randn(5, 1000, generator=g)
    null[1] = null[0]  # eyes that see the same do not make the margins wider than they need to be
    above = (null > margins(null)[:, None]).any(dim=0).sum()
    assert 45 <= above <= 49
    assert (null[:1] > margins(null[:1])[:, None]).sum() == 49  # so that one more draw is above with 50/1001


def test_the_energy_distance_is_that_of_its_definition() -> None:
    x, y = torch.randn(20, 3, generator=g), 1 + torch.randn(30, 3, generator=g)
    sets = torch.arange(50) < 20, torch.arange(50) >= 20
    found = energy(torch.cdist(torch.cat([x, y]), torch.cat([x, y])), sets[0][None], sets[1][None])
    within = (torch.cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y))
    torch.testing.assert_close(float(found), float(2 * torch.cdist(x, y).mean() - sum(within)), rtol=1e-5, atol=0)


def test_sets_of_photographs_and_divisions_share_nothing() -> None:
    photograph = torch.arange(10).repeat_interleave(7)
    for (chosen, rest), size in ((real_sets(photograph, 9, 2, 50), 9), (divided(9, 40, 70), 9)):
        assert (chosen.sum(dim=1) == size).all()
        assert not (chosen & rest).any()
    chosen, rest = real_sets(photograph, 9, 2, 50)
    assert all(not {*photograph[a].tolist()} & {*photograph[b].tolist()} for a, b in zip(chosen, rest, strict=True))
    assert len({tuple(each.tolist()) for each in chosen}) == 50


def seen(samples: Tensor, data: Landscapes) -> dict[str, list[str]]:
    """The eyes that tell samples apart: from half of the training tiles, and from other photographs."""
    train, held_out = data.splits["train"].take(torch.arange(0, 2091, 4)), data.splits["val"]
    real, photograph = torch.cat([train.images, held_out.images]), numbered([*train.sources, *held_out.sources])
    found = judge(samples, real, torch.arange(len(real)) < len(train), photograph, {})
    return {name: found[name]["by"] for name in ("further", "others")}


def test_real_photographs_pass_and_cheats_do_not(landscapes: Landscapes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(referee, "DRAWS", 199)
    train, test = landscapes.splits["train"].images, landscapes.splits["test"].images
    assert seen(train[2::8], landscapes)["further"] == []
    assert seen(test, landscapes)["others"] == []
    x = train[2::8].flatten(1).double()
    factor = torch.linalg.cholesky(x.T.cov() + torch.eye(x.shape[1]))
    noise = (x.mean(dim=0) + torch.randn(x.shape, generator=g).double() @ factor.T).clamp(0, 255)
    assert "spectrum" in seen(noise.view(-1, 3, 16, 16).to(torch.uint8), landscapes)["others"]
    mean = (train[2::8].int() + train[2::8].roll(100, dims=0)) // 2
    assert "random convolutions" in seen(mean.to(torch.uint8), landscapes)["further"]


def test_the_filters_are_chosen_by_the_samples(landscapes: Landscapes) -> None:
    images = landscapes.splits["val"].images[:8]
    first, again, other = (look(convolutions, images, seed) for seed in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.1
