"""The nearest of many vectors within a radius, found without a comparison of every pair; the result is exact.

A map that brings no two vectors farther apart shortens each vector to a few numbers: its coordinates along some
orthonormal directions in which the vectors vary most, and the length of what these leave. Vectors within the radius are
within it there too, so a k-d tree of the short ones finds the candidates, and only these are compared in full. Where
`CANDIDATES` may not be enough, as among thousands of black images, a query is compared with all vectors.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

COORDINATES = 15  # more find fewer candidates, and the tree has more to look through
CANDIDATES = 16  # of a query, nearest in the short vectors
SAMPLED = 2048  # vectors from which the directions are found
SLACK = 1e-3  # of the radius: the short vectors are rounded
PART = 2048  # pairs that are compared at once

Vectors = Callable[[Tensor], Tensor]
"""Numbers (n,) of some vectors -> these, float32 (n, D)."""


def directions(sample: Tensor) -> Tensor:
    """Orthonormal columns (D, k) along which the vectors (n, D) vary much: a step of the subspace iteration.

    From a fixed start (Halko, Martinsson and Tropp 2011). Any orthonormal columns give the exact result.
    """
    start = torch.randn(sample.shape[1], COORDINATES, generator=torch.Generator().manual_seed(0))
    centred = sample - sample.mean(dim=0)
    return torch.linalg.qr(centred.T @ (centred @ torch.linalg.qr(centred.T @ (centred @ start)).Q)).Q


def shortened(vectors: Tensor, along: Tensor) -> Tensor:
    """(n, D) -> (n, k + 1) float64: no two are farther apart than before."""
    coordinates = vectors @ along
    rest = (vectors - coordinates @ along.T).norm(dim=1, keepdim=True)
    return torch.cat([coordinates, rest], dim=1).double()


class Nearest:
    """Answers which of many vectors is the nearest to each of some others.

    Args:
        short: of the vectors, see `shortened`.
        full: the vectors themselves, which need not be in memory.
        radius: no farther ones are looked for.
        rows: vectors that are in memory at once where all are compared.
    """

    def __init__(self, short: Tensor, full: Vectors, radius: float, rows: int):
        self.tree, self.full, self.radius, self.rows = cKDTree(short.numpy()), full, radius, rows
        self.compared = 0  # pairs, in full

    def __call__(self, vectors: Tensor, short: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest vector, infinite where none is within the radius, and its number; both (m,).

        Of equally near ones it is the first.

        Args:
            vectors, short: (m, D), and the same shortened.
        """
        m = len(vectors)
        best, number = torch.full((m,), torch.inf), torch.zeros(m, dtype=torch.long)
        count = min(CANDIDATES, self.tree.n)
        if not count:
            return best, number
        reach = self.radius * (1 + SLACK)
        near, index = self.tree.query(short.numpy(), k=range(1, count + 1), distance_upper_bound=reach, workers=-1)
        query, place = np.nonzero(np.isfinite(near))
        self._compare(vectors, torch.from_numpy(query), torch.from_numpy(index[query, place]), best, number)
        # What is left out is at least as far as the last candidate.
        last = torch.from_numpy(near[:, -1]) - SLACK * self.radius
        more = (last <= best.clamp(max=self.radius)).nonzero().flatten() if count < self.tree.n else best.new_empty(0)
        for first in range(0, self.tree.n if len(more) else 0, self.rows):
            known = self.full(torch.arange(first, min(self.tree.n, first + self.rows)))
            for some in more.split(self.rows):
                squares = torch.cdist(vectors[some].double(), known.double()).square()
                # Products round; what may be the nearest one is compared without them.
                likely = squares <= squares.min(dim=1, keepdim=True).values.clamp(max=reach**2) + SLACK
                a, b = (likely & (squares <= reach**2)).nonzero(as_tuple=True)
                self._compare(vectors, some[a], first + b, best, number)
        return best, number

    def _compare(self, vectors: Tensor, query: Tensor, index: Tensor, best: Tensor, number: Tensor) -> None:
        """Compare pairs in full, and note in `best` and `number` what is nearer than before."""
        self.compared += len(query)
        for i, j in zip(query.split(PART), index.split(PART), strict=True):
            distance = (vectors[i] - self.full(j)).norm(dim=1)
            order = np.lexsort((j.numpy(), distance.numpy(), i.numpy()))
            _, first = np.unique(i.numpy()[order], return_index=True)
            i, j, distance = (each[torch.from_numpy(order[first])] for each in (i, j, distance))
            nearer = (distance < best[i]) | (distance == best[i]) & (j < number[i])
            nearer &= distance < self.radius
            best[i[nearer]], number[i[nearer]] = distance[nearer], j[nearer]
