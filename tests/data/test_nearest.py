"""The nearest vector within a radius equals that of an exhaustive search, but without comparing every pair."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion.data import nearest
from diffusion.data.nearest import Nearest, directions, shortened

WIDTH = 48


def drawn(n: int, seed: int, groups: int = 0) -> Tensor:
    """Integers (n, WIDTH), so distances are exact; around `groups` centres, or far apart if `groups` is 0."""
    draws = torch.Generator().manual_seed(seed)
    spread = 3 if groups else 120
    vectors = torch.randint(-spread, spread + 1, (n, WIDTH), generator=draws)
    if groups:
        centres = torch.randint(-120, 121, (groups, WIDTH), generator=torch.Generator().manual_seed(99))
        vectors += centres[torch.randint(groups, (n,), generator=draws)]
    return vectors.float()


def every_pair(vectors: Tensor, known: Tensor, radius: float) -> tuple[list[float], list[int]]:
    distances = (vectors[:, None].double() - known[None].double()).norm(dim=2).float()
    distance = distances.amin(dim=1)
    first = (distances == distance[:, None]).int().argmax(dim=1)
    near = distance < radius
    return torch.where(near, distance, torch.inf).tolist(), torch.where(near, first, 0).tolist()


def found(vectors: Tensor, known: Tensor, radius: float, rows: int = 7) -> tuple[Nearest, list[float], list[int]]:
    along = directions(known[:64])
    near = Nearest(shortened(known, along), lambda j: known[j], radius, rows)
    distance, number = near(vectors, shortened(vectors, along))
    return near, distance.tolist(), number.tolist()


@settings(max_examples=60)
@given(
    n=st.integers(1, 60), m=st.integers(1, 20), groups=st.integers(0, 3), seed=st.integers(0, 1000),
    radius=st.integers(1, 40), candidates=st.integers(1, 16), again=st.integers(0, 9),
)  # fmt: skip
def test_nearest_equals_an_exhaustive_search(
    n: int, m: int, groups: int, seed: int, radius: int, candidates: int, again: int
) -> None:
    known, vectors = drawn(n, seed, groups), drawn(m, seed + 1, groups)
    some = torch.arange(min(again, n, m))
    vectors[some] = known[some]
    known[some // 2] = known[some]  # the first of equal vectors is found
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(nearest, "CANDIDATES", candidates)
        _, distance, number = found(vectors, known, float(radius))
    assert (distance, number) == every_pair(vectors, known, float(radius))


def test_the_search_radius_is_exclusive() -> None:
    known = drawn(30, 0)
    vectors = known[[3, 4]].clone()
    vectors[:, 0] += torch.tensor([4.0, 5.0])
    assert found(vectors, known, 5.0)[1:] == ([4.0, torch.inf], [3, 0])


def test_shortening_vectors_never_increases_their_distance() -> None:
    vectors = drawn(80, 0, groups=4)
    short = shortened(vectors, directions(vectors))
    assert short.shape == (80, 1 + nearest.COORDINATES)
    assert bool((torch.cdist(short, short) <= torch.cdist(vectors.double(), vectors.double()) + 1e-2).all())


@pytest.mark.parametrize("n", [500, 2000])
def test_dissimilar_images_are_rarely_compared(n: int) -> None:
    known, vectors = drawn(n, 0), drawn(n // 5, 1)
    vectors[:3] = known[7:10]
    near, distance, _ = found(vectors, known, 30.0, rows=10**6)
    assert distance[:3] == [0, 0, 0]
    assert near.compared < 10


def test_exhaustive_comparison_is_limited_to_the_images_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known, vectors = drawn(400, 0, groups=1), drawn(40, 1)
    vectors[0] = drawn(1, 5, groups=1)
    asked = []
    compare = Nearest._compare
    monkeypatch.setattr(
        Nearest, "_compare", lambda self, v, query, *rest: asked.append(query) or compare(self, v, query, *rest)
    )
    _, distance, _ = found(vectors, known, 100.0, rows=100)
    assert distance == every_pair(vectors, known, 100.0)[0]
    assert len(asked) == 1 + 4
    assert {i for query in asked for i in query.tolist()} == {0}
