import math

import pytest
import torch

from diffusion.metric.denoising import DenoisingError, FrozenGrid


def test_denoising_error_is_averaged_over_all_examples_and_per_bin() -> None:
    metric = DenoisingError()
    metric.update(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.05, 0.1, 0.11]))
    metric.update(torch.tensor([10.0]), torch.tensor([1.0]))
    result = metric.compute()
    assert float(result["mse"]) == 4.0  # the mean of four examples, not of two batches
    assert result["bins"].tolist()[:2] == [1.5, 3.0]
    assert math.isnan(result["bins"][2])
    assert float(result["bins"][9]) == 10.0


def test_every_timestep_of_a_discrete_schedule_falls_into_its_bin() -> None:
    """Row i of T = 1000 is in bin ⌈i/100⌉ − 1, also at the edges 100, 200, …, regardless of the rounding of i/T."""
    i = torch.arange(1, 1001)
    metric = DenoisingError()
    metric.update(i.double(), i / 1000)
    assert metric.count.tolist() == [100] * 10
    assert metric.compute()["bins"].tolist() == [50.5 + 100 * k for k in range(10)]


def test_sums_are_exact_and_reduce_over_devices() -> None:
    generator = torch.Generator().manual_seed(0)
    error, t = torch.rand(10_000, generator=generator), 1 - torch.rand(10_000, generator=generator)
    parts = [DenoisingError(), DenoisingError()]
    for part, half in zip(parts, (slice(0, 3000), slice(3000, None)), strict=True):
        for batch in zip(error[half].split(7), t[half].split(7), strict=True):
            part.update(*batch)
    for name, reduction in parts[0]._reductions.items():
        setattr(parts[0], name, reduction(torch.stack([getattr(p, name) for p in parts])))
    assert float(parts[0].compute()["mse"]) == pytest.approx(float(error.double().mean()), rel=1e-14)
    low = error[t <= 0.1].double().mean()
    assert float(parts[0].compute()["bins"][0]) == pytest.approx(float(low), rel=1e-12)
    with pytest.raises(ValueError, match="0 < t <= 1"):
        DenoisingError().update(torch.ones(2), torch.tensor([0.5, 0.0]))


def test_the_grid_depends_only_on_seed_index_and_draw() -> None:
    grid, like = FrozenGrid(draws=2, seed=3), torch.zeros(6, 3, 4, 4)
    index = torch.tensor([5, 0, 7, 2090, 1, 40])
    t, eps = grid.t(index, 1), grid.noise(index, 1, like)
    torch.rand(3)
    again = FrozenGrid(draws=5, seed=3)
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
    grid = FrozenGrid(draws=draws, seed=1, rows=rows)
    t = torch.cat([grid.t(torch.arange(n), k) for k in range(draws)])
    assert ((t > 0) & (t <= 1)).all()
    counts = torch.histc(t.float() - 1e-6, bins=10, min=0, max=1)
    assert (counts - n * draws / 10).abs().max() <= 2 * draws  # for random times it would be about 3 √(n·draws/10)
    if rows:
        assert torch.equal((t * rows).round() / rows, t)
