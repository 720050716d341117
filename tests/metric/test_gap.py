import math
from typing import Any

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


def test_the_gap_is_the_mean_paired_difference_with_its_standard_error() -> None:
    d = (VAL - FIT).double()
    for metric in (filled(INDEX, 1), filled(torch.randperm(N, generator=g), 7)):
        found = metric.compute()
        assert float(found["gap"].mean) == pytest.approx(float(d.mean()))
        assert float(found["gap"].error) == pytest.approx(float(d.std()) / math.sqrt(N))
        assert float(found["gap"].freedom) == N - 1
        # pairing removes the variance due to the times
        assert float(found["gap"].error) < 0.2 * float(VAL.std()) / math.sqrt(N)


def test_the_gap_uses_the_bins_of_the_denoising_error() -> None:
    found = filled(INDEX, 3).compute()
    val, fit = DenoisingError(), DenoisingError()
    val.update(VAL, T)
    fit.update(FIT, T)
    means = torch.stack([each.mean for each in found["bins"]])
    torch.testing.assert_close(means, val.compute()["bins"] - fit.compute()["bins"], atol=1e-6, rtol=0)
    k = 3
    inside = ((k / 10 < T) & ((k + 1) / 10 >= T)).nonzero().flatten()
    d = (VAL - FIT).double()[inside]
    assert float(found["bins"][k].error) == pytest.approx(float(d.std()) / math.sqrt(len(d)), rel=1e-5)


def test_images_without_a_partner_are_not_used() -> None:
    metric = PairedGap()
    metric.update("val", VAL, T, INDEX)
    metric.update("fit", FIT[:9], T[:9], INDEX[:9])
    d = (VAL - FIT).double()[:9]
    found = metric.compute()
    assert float(found["gap"].mean) == pytest.approx(float(d.mean()))
    assert float(found["gap"].error) == pytest.approx(float(d.std()) / 3)
    torch.testing.assert_close(found["images"], d)
    assert not found["whole"]
    for draw in range(1, 4):  # four times the same errors: no new information
        metric.update("val", VAL, T, INDEX, draw)
        metric.update("fit", FIT[:9], T[:9], INDEX[:9], draw)
    assert float(metric.compute()["gap"].error) == pytest.approx(float(d.std()) / 3)
    assert all(value.isnan() for value in PairedGap().compute()["gap"])


def test_tiles_of_a_photograph_form_a_cluster_and_one_cluster_has_no_error() -> None:
    """With the same number of tiles per photograph, the error equals the error of the photographs' means."""
    common = torch.arange(5.0).repeat(N // 5)

    def computed(sources: list[str]) -> dict[str, Any]:
        metric = PairedGap()
        metric.sources = {"val": sources}
        metric.update("val", VAL + common, T, INDEX)
        metric.update("fit", FIT, T, INDEX)
        return metric.compute()

    found = computed([f"{i % 5}" for i in range(N)])
    means = (VAL + common - FIT).double().view(-1, 5).mean(dim=0)
    assert float(found["gap"].error) == pytest.approx(float(means.std()) / math.sqrt(5))
    assert float(found["gap"].freedom) == 4
    assert float(found["gap"].half()) == pytest.approx(2.776 * float(found["gap"].error), rel=1e-3)  # Student's t
    assert all(each.freedom <= 4 or each.freedom.isnan() for each in found["bins"])
    assert computed(["one"] * N)["gap"].error.isnan()


def test_the_error_is_clustered_by_the_sources_of_both_sets() -> None:
    """V by its definition: two pairs covary if they share a source in either set."""
    metric = PairedGap()
    sources = {"val": [i % 6 for i in range(N)], "fit": [i * i % 11 for i in range(N)]}
    metric.sources = {part: list(map(str, names)) for part, names in sources.items()}
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
    found = metric.compute()["gap"]
    assert float(found.error) ** 2 == pytest.approx(two_way, rel=1e-5)
    assert float(found.freedom) == min(len(set(sources["val"])), len(set(sources["fit"]))) - 1
