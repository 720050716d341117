import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.metric import estimate
from diffusion.metric.denoising import DenoisingErrors
from diffusion.metric.distances import CMMD, FrechetDistance, KernelDistance
from diffusion.metric.diversity import DensityCoverage, PrecisionRecall
from diffusion.metric.estimate import PairwiseMetric, Statistic
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.record import Reference, Score
from diffusion.metric.score import divide, extract, reference_of, score

pytestmark = pytest.mark.usefixtures("cache")
Projection = type[FeatureExtractor]


def scored(images: Tensor, extractor: FeatureExtractor, reference: Any, **metrics: Any) -> dict[str, Score]:
    return score(extract(images, extractor), extractor, reference, **metrics)


def test_a_score_records_its_protocol(projection: Projection, photographs: Tensor) -> None:
    extractor = projection()
    reference = reference_of(photographs[:100], extractor, name="val")
    fd, kid = scored(photographs[100:160], extractor, reference).values()
    how = {"features": "projection", "weights_hash": extractor.weights_hash, "resize": "8x8 mean"}
    common = Score("", 0, 60, reference=Reference("val", 100, reference.key), resolution="32x32", level=0.95, **how)
    kernel = {"subsets": 100, "subset_size": 30}
    for found, metric, settings in ((fd, "fd_projection", {}), (kid, "kid_projection", kernel)):
        numbers = {name: getattr(found, name) for name in ("value", "error", "samples_error", "low", "high", "std")}
        assert found == replace(common, metric=metric, settings=settings, **numbers)
        assert found.low < found.value < found.high
    assert (fd.std, kid.std > 0) == (None, True)


EVERY = (FrechetDistance(), CMMD(), PrecisionRecall(), DensityCoverage())


def test_one_pass_of_the_extractor_serves_all_metrics(projection: Projection, photographs: Tensor) -> None:
    extractor, seen = projection(), []
    reference = reference_of(photographs[:100], extractor)
    extractor.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    found = scored(photographs[100:160], extractor, reference, metrics=EVERY)
    assert sum(seen) == 60
    short = ["fd", "cmmd", "precision", "recall", "density", "coverage"]
    assert list(found) == [f"{name}_projection" for name in short]
    for name, s in found.items():
        assert s.metric == name
        assert s.low <= s.value <= s.high
        assert s.error > 0
    few = scored(photographs[:4], extractor, reference, metrics=(PrecisionRecall(), FrechetDistance()))
    assert list(few) == ["fd_projection"]  # four images have no four neighbours


def test_the_floor_contains_only_differences_by_chance(projection: Projection, photographs: Tensor) -> None:
    """Darker images have a distance. Mixed with the reference and split at random, they differ only by chance."""
    extractor = projection()
    reference = reference_of(photographs[:100], extractor, name="val")
    other = extract((photographs[100:180] * 0.8).to(torch.uint8), extractor)
    apart = score(other, extractor, reference)["fd_projection"]
    features, mixed = divide(other, reference, seed=1)
    floor = score(features, extractor, mixed)["fd_projection"]
    assert len(features) == 80
    assert floor.reference == Reference("val", 100, reference.key)
    assert floor.high < apart.low
    both, again = torch.cat([features, mixed.features]), torch.cat([other, reference.features])
    assert torch.equal(both.sum(dim=1).sort().values, again.sum(dim=1).sort().values)  # each image once
    assert torch.equal(divide(other, reference, seed=1)[0], features)
    assert not torch.equal(divide(other, reference, seed=2)[0], features)


def test_pairwise_metrics_use_at_most_the_pool_and_the_floor_has_the_sizes_of_the_sets(
    projection: Projection, photographs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sizes(PairwiseMetric):
        def compare(self, x: Tensor, y: Tensor) -> dict[str, Statistic]:
            return {"sizes": Statistic(len(x), len(y))}

    monkeypatch.setattr(estimate, "POOL", 30)
    reference = reference_of(photographs[:100], projection())
    features, mixed = divide(extract(photographs[100:180], projection()), reference)
    found = score(features, projection(), mixed, metrics=(FrechetDistance(), Sizes()))
    assert {(s.n, s.reference.n) for s in found.values()} == {(80, 100)}
    assert (found["sizes_projection"].value, found["sizes_projection"].error) == (30, 30)


def process(rank: int, init: str, part: Tensor, whole: Tensor, extractor: FeatureExtractor, out: str) -> None:
    """Score in one of two processes that work together."""
    torch.distributed.init_process_group("gloo", f"file://{init}", rank=rank, world_size=2)
    reference = reference_of(whole, extractor)
    found = scored(part, extractor, reference, metrics=(*EVERY, KernelDistance()))
    values = {name: (s.n, s.value, s.error) for name, s in found.items()}
    errors, index = DenoisingErrors(), torch.arange(3 + rank)
    for split, error in (("val", 0.75), ("fit", 0.5)):
        errors.update(split, torch.full((len(index),), error), torch.full((len(index),), 0.5), index + 100 * rank)
    values |= {"errors": errors.compute({part: range(200) for part in ("val", "fit")})}
    torch.save(values, f"{out}{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("first", [12, 0])
def test_processes_count_each_image_once(first: int, projection: Projection, photographs: Tensor, tmp_path) -> None:
    """With unequal shares, or one process without images, both get the score of all images."""
    extractor, images, whole = projection(), photographs[100:137], photographs[:100]
    reference = reference_of(whole, extractor)
    alone = scored(images, extractor, reference, metrics=(*EVERY, KernelDistance()))
    parts, out = (images[:first], images[first:]), str(tmp_path / "out")
    fork = torch.multiprocessing.get_context("fork")
    made = [
        fork.Process(target=process, args=(rank, tmp_path / "init", parts[rank], whole, extractor, out))
        for rank in (0, 1)
    ]
    for p in made:
        p.start()
    for p in made:
        p.join(60)
    assert [p.exitcode for p in made] == [0, 0]
    for rank in (0, 1):
        together = torch.load(f"{out}{rank}")
        for name, s in alone.items():
            assert together[name] == pytest.approx((37, s.value, s.error), rel=1e-5, abs=1e-9)
        assert [together["errors"][name] for name in ("val/mse", "gap/mse", "gap/se")] == [0.75, 0.25, 0]


def test_statistics_are_computed_once_per_key(
    projection: Projection, photographs: Tensor, cache: Path, monkeypatch
) -> None:
    extractor = projection()
    first = reference_of(photographs[:50], extractor, name="val")
    passed, features = [], extractor.features
    monkeypatch.setattr(extractor, "features", lambda images: passed.append(len(images)) or features(images))
    second = reference_of(photographs[:50].clone(), extractor, name="test")
    assert second.name == "test"
    assert passed == [1]
    assert torch.equal(first.features, second.features)
    assert os.listdir(cache) == [f"{first.key}.pt"]
    torch.testing.assert_close(first.cov, projection()(photographs[:50]).double().T.cov(), rtol=1e-5, atol=1e-8)


def test_the_reference_key_depends_on_the_images_and_the_extractor(projection: Projection, photographs: Tensor) -> None:
    images = photographs[:20]
    one_pixel = images.clone()
    one_pixel[7, 1, 3, 3] ^= 1
    sets = (images, one_pixel, images[:19], images.reshape(20, 3, 16, 64))
    keys = [reference_of(x, projection()).key for x in sets]
    keys += [reference_of(images, projection(**{k: v})).key for k, v in (("resize", "x"), ("name", "y"), ("seed", 1))]
    assert len(set(keys)) == len(keys)
    assert reference_of(images.clone(), projection()).key == keys[0]


def test_a_damaged_cache_file_is_replaced_and_a_full_disk_is_no_error(
    projection: Projection, photographs: Tensor, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = projection()
    first = reference_of(photographs[:50], extractor)
    file = cache / f"{first.key}.pt"
    file.write_bytes(file.read_bytes()[:1000])
    again = reference_of(photographs[:50], extractor)
    assert torch.equal(again.cov, first.cov)
    assert len(file.read_bytes()) > 1000  # it was replaced

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert len(reference_of(photographs[:60], extractor).features) == 60
    assert os.listdir(cache) == [file.name]


def test_a_changed_extractor_is_noticed(projection: Projection, photographs: Tensor, monkeypatch) -> None:
    extractor = projection()
    first = reference_of(photographs[:50], extractor)
    features = extractor.features
    monkeypatch.setattr(extractor, "features", lambda images: 2 * features(images))
    assert torch.allclose(reference_of(photographs[:50], extractor).mean, 2 * first.mean)


def test_invalid_images_and_references_are_refused(projection: Projection, photographs: Tensor) -> None:
    extractor = projection()
    reference = reference_of(photographs[:100], extractor)
    with pytest.raises(UserError):
        scored(photographs[:3], extractor, reference)
    with pytest.raises(UserError):
        reference_of(photographs[:3], extractor, name="val")
