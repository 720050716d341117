import math

import pytest
import torch

from diffusion.metric.denoising import DenoisingError
from diffusion.metric.gap import PairedGap

N = 40
g = torch.Generator().manual_seed(0)
INDEX, T = torch.arange(N), (torch.rand(N, generator=g) * 0.999 + 0.0005)
VAL, FIT = torch.rand(N, generator=g) + 10 * T, torch.rand(N, generator=g) + 10 * T - 0.2


def filled(order: torch.Tensor, batches: int) -> PairedGap:
    metric = PairedGap()
    for part, error in (("val", VAL), ("fit", FIT)):
        for rows in order.tensor_split(batches):
            metric.update(part, error[rows], T[rows], INDEX[rows])
        order = order.flip(0)
    return metric


def test_the_gap_is_the_paired_mean_with_its_standard_error() -> None:
    d = (VAL - FIT).double()
    for metric in (filled(INDEX, 1), filled(torch.randperm(N, generator=g), 7)):
        found = metric.compute()
        assert float(found["gap"]) == pytest.approx(float(d.mean()))
        assert float(found["se"]) == pytest.approx(float(d.std()) / math.sqrt(N))
        # pairing takes the times' share of the spread away
        assert float(found["se"]) < 0.2 * float(VAL.std()) / math.sqrt(N)


def test_the_bins_are_those_of_the_denoising_error() -> None:
    found = filled(INDEX, 3).compute()
    val, fit = DenoisingError(), DenoisingError()
    val.update(VAL, T)
    fit.update(FIT, T)
    torch.testing.assert_close(found["bins"], val.compute()["bins"] - fit.compute()["bins"], atol=1e-6, rtol=0)
    k = 3
    inside = ((k / 10 < T) & ((k + 1) / 10 >= T)).nonzero().flatten()
    d = (VAL - FIT).double()[inside]
    assert float(found["bins_se"][k]) == pytest.approx(float(d.std()) / math.sqrt(len(d)), rel=1e-5)


def test_draws_of_one_image_are_no_independent_images() -> None:
    metric = PairedGap()
    for draw in range(4):  # four times the same: no new knowledge
        metric.update("val", VAL, T, INDEX, draw)
        metric.update("fit", FIT, T, INDEX, draw)
    assert float(metric.compute()["se"]) == pytest.approx(float((VAL - FIT).double().std()) / math.sqrt(N))


def test_only_pairs_count_and_nothing_is_nan() -> None:
    metric = PairedGap()
    metric.update("val", VAL, T, INDEX)
    metric.update("fit", FIT[:9], T[:9], INDEX[:9])
    assert float(metric.compute()["gap"]) == pytest.approx(float((VAL - FIT)[:9].mean()), rel=1e-5)
    metric.reset()
    assert metric.compute()["gap"].isnan()
