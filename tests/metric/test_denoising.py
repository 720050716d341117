import math

import pytest
import scipy
import torch

from diffusion.metric.denoising import SETS, DenoisingErrors, FrozenGrid, mean_and_error

N = 40
g = torch.Generator().manual_seed(0)
INDEX, T = torch.arange(N), (torch.rand(N, generator=g) * 0.999 + 0.0005)
OWN = {part: range(2000) for part in SETS}  # each image is its own source
VAL, FIT = torch.rand(N, generator=g) + 10 * T, torch.rand(N, generator=g) + 10 * T - 0.2


def filled(order: torch.Tensor, batches: int) -> dict[str, float]:
    metric = DenoisingErrors()
    for part, error in (("val", VAL), ("fit", FIT)):
        for rows in order.tensor_split(batches):
            metric.update(part, error[rows], T[rows], INDEX[rows])
        order = order.flip(0)
    return metric.compute(OWN)


def test_errors_are_averaged_over_all_examples_and_per_bin() -> None:
    metric = DenoisingErrors()
    metric.update("val", torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.05, 0.1, 0.11]), torch.arange(3))
    metric.update("val", torch.tensor([10.0]), torch.tensor([1.0]), torch.tensor([3]))
    found = metric.compute(OWN)
    assert found["val/mse"] == 4.0  # the mean of four examples, not of two batches
    assert [found[f"val/mse_bin{i}"] for i in (0, 1, 9)] == [1.5, 3.0, 10.0]
    assert math.isnan(found["val/mse_bin2"])
    assert all(math.isnan(found[name]) for name in ("fit/mse", "gap/mse", "gap/se", "gap/half"))


def test_every_timestep_of_a_discrete_schedule_falls_into_its_bin() -> None:
    """Row i of T = 1000 is in bin ⌈i/100⌉ − 1, also at the edges 100, 200, …, regardless of the rounding of i/T."""
    i = torch.arange(1, 1001)
    metric = DenoisingErrors()
    metric.update("val", i.double(), i / 1000, i)
    found = metric.compute(OWN)
    assert [found[f"val/mse_bin{k}"] for k in range(10)] == [50.5 + 100 * k for k in range(10)]


def test_the_gap_is_the_mean_paired_difference_with_its_standard_error() -> None:
    d = (VAL - FIT).double()
    for found in (filled(INDEX, 1), filled(torch.randperm(N, generator=g), 7)):
        assert found["gap/mse"] == pytest.approx(float(d.mean()))
        assert found["gap/mse"] == pytest.approx(found["val/mse"] - found["fit/mse"])
        assert found["gap/se"] == pytest.approx(float(d.std()) / math.sqrt(N))
        assert found["gap/half"] == pytest.approx(2.0227 * found["gap/se"], rel=1e-3)  # Student's t of 39
        # pairing removes the variance due to the times
        assert found["gap/se"] < 0.2 * float(VAL.std()) / math.sqrt(N)
        for k in range(10):
            difference = found[f"val/mse_bin{k}"] - found[f"fit/mse_bin{k}"]
            assert found[f"gap/mse_bin{k}"] == pytest.approx(difference, abs=1e-6)


def test_unused_images_of_the_training_photographs_have_a_gap_of_their_own() -> None:
    metric = DenoisingErrors()
    for part, error in (("val", VAL + 1), ("fit", FIT), ("unused", VAL)):
        metric.update(part, error, T, INDEX)
    found = metric.compute(OWN)
    assert found["gap/unused"] == pytest.approx(float((VAL - FIT).mean()))
    assert found["gap/mse"] == pytest.approx(1 + found["gap/unused"])
    assert found["gap/unused_half"] == pytest.approx(found["gap/half"])


def test_images_without_a_partner_are_not_used_for_the_gap() -> None:
    metric = DenoisingErrors()
    for draw in range(4):  # four times the same errors: no new information
        metric.update("val", VAL, T, INDEX, draw)
        metric.update("fit", FIT[:9], T[:9], INDEX[:9], draw)
    d = (VAL - FIT).double()[:9]
    found = metric.compute(OWN)
    assert found["gap/mse"] == pytest.approx(float(d.mean()))
    assert found["gap/se"] == pytest.approx(float(d.std()) / 3)
    assert found["val/mse"] == pytest.approx(float(VAL.mean()))


def test_the_error_is_clustered_by_the_sources_of_both_sets() -> None:
    """V by its definition: two pairs covary if they share a source in either set. A single source has no error."""
    metric = DenoisingErrors()
    sources = {"val": [i % 6 for i in range(N)], "fit": [i * i % 11 for i in range(N)]}
    val, fit = (error + torch.tensor(sources[part]) for part, error in (("val", VAL), ("fit", FIT)))
    metric.update("val", val, T, INDEX)
    metric.update("fit", fit, T, INDEX)
    d = (val - fit).double() - (val - fit).double().mean()

    def v(*parts: str) -> float:
        names = [tuple(sources[part][i] for part in parts) for i in range(N)]
        same = torch.tensor([[a == b for a in names] for b in names]).double()
        return len(set(names)) / (len(set(names)) - 1) * float(d @ same @ d) / N**2

    two_way = v("val") + v("fit") - v("val", "fit")
    assert two_way > max(v("val"), v("fit"))
    found = metric.compute({part: list(map(str, names)) for part, names in sources.items()})
    assert found["gap/se"] ** 2 == pytest.approx(two_way, rel=1e-5)
    assert found["gap/half"] == pytest.approx(2.571 * found["gap/se"], rel=1e-3)  # Student's t of the 6 sources
    assert math.isnan(mean_and_error(d, torch.zeros(1, N))[1])


def test_the_grid_depends_only_on_seed_index_and_draw() -> None:
    grid, like = FrozenGrid(seed=3), torch.zeros(6, 3, 4, 4)
    index = torch.tensor([5, 0, 7, 2090, 1, 40])
    t, eps = grid.t(index, 1), grid.noise(index, 1, like)
    torch.rand(3)
    again = FrozenGrid(seed=3)
    for row, i in enumerate(index):
        assert torch.equal(again.t(i[None], 1), t[row, None])
        assert torch.equal(again.noise(i[None], 1, like[:1]), eps[row, None])
    for other, k in ((FrozenGrid(seed=4), 1), (grid, 0)):
        assert not torch.isclose(other.t(index, k), t).any()
        assert not torch.isclose(other.noise(index, k, like), eps).all(dim=(1, 2, 3)).any()
    assert float(eps.std()) == pytest.approx(1, abs=0.1)
    assert t.dtype == torch.float64
    assert (eps.dtype, eps.shape) == (torch.float32, like.shape)


@pytest.mark.parametrize(("n", "draws", "rows"), [(50, 1, None), (250, 3, 1000)])
def test_the_grid_covers_all_times_evenly(n: int, draws: int, rows: int | None) -> None:
    grid = FrozenGrid(seed=1, rows=rows)
    t = torch.cat([grid.t(torch.arange(n), k) for k in range(draws)])
    assert ((t > 0) & (t <= 1)).all()
    counts = torch.histc(t.float() - 1e-6, bins=10, min=0, max=1)
    assert (counts - n * draws / 10).abs().max() <= 2 * draws  # for random times it would be about 3 √(n·draws/10)
    if rows:
        assert torch.equal((t * rows).round() / rows, t)


def test_intervals_that_hold_together_are_those_of_bonferroni() -> None:
    x = torch.randn(4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alone, together = (mean_and_error(x, torch.arange(4000)[None], of)[2] for of in (1, 13))
    assert together / alone == pytest.approx(scipy.stats.norm.ppf(1 - 0.025 / 13) / 1.96, rel=2e-3)
