"""Exact nearest neighbours within a radius, found without comparing every pair of vectors.

Each vector is shortened to a few numbers: its coordinates along some orthonormal directions in which the vectors vary
most, and the norm of the remainder. This map never increases distances, so vectors within the radius stay within it. A
k-d tree of the short vectors finds the candidates, and only these are compared in full. If `CANDIDATES` may not be
enough, as among thousands of black images, a query is compared with all vectors.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

COORDINATES = 15  # more would find fewer candidates, but make the tree slower
CANDIDATES = 16  # per query: its nearest short vectors
SAMPLED = 2048  # vectors used to find the directions
SLACK = 1e-3  # relative to the radius: short vectors have rounding errors
PART = 2048  # pairs compared at a time

Vectors = Callable[[Tensor], Tensor]
"""Indices (n,) -> these vectors, float32 (n, D)."""


def directions(sample: Tensor) -> Tensor:
    """Orthonormal columns (D, k) along which the vectors (n, D) vary much: a step of subspace iteration.

    It has a fixed start (Halko, Martinsson and Tropp 2011). The search is exact with any orthonormal columns.
    """
    start = torch.randn(sample.shape[1], COORDINATES, generator=torch.Generator().manual_seed(0))
    centred = sample - sample.mean(dim=0)
    return torch.linalg.qr(centred.T @ (centred @ torch.linalg.qr(centred.T @ (centred @ start)).Q)).Q


def shortened(vectors: Tensor, along: Tensor) -> Tensor:
    """(n, D) -> (n, k + 1) float64; no distance increases."""
    coordinates = vectors @ along
    rest = (vectors - coordinates @ along.T).norm(dim=1, keepdim=True)
    return torch.cat([coordinates, rest], dim=1).double()


class Nearest:
    """Finds the nearest of many vectors to each query vector.

    Args:
        short: the vectors, `shortened`.
        full: returns the full vectors, which need not be in memory.
        radius: maximum distance.
        rows: vectors in memory at a time when all are compared.
    """

    def __init__(self, short: Tensor, full: Vectors, radius: float, rows: int):
        self.tree, self.full, self.radius, self.rows = cKDTree(short.numpy()), full, radius, rows
        self.compared = 0  # pairs compared in full

    def __call__(self, vectors: Tensor, short: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest vector (infinite if none is within the radius) and its index; both (m,).

        Of equally near vectors, the first is returned.

        Args:
            vectors, short: the queries, (m, D), and the same `shortened`.
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
        # All other vectors are at least as far as the last candidate.
        last = torch.from_numpy(near[:, -1]) - SLACK * self.radius
        more = (last <= best.clamp(max=self.radius)).nonzero().flatten() if count < self.tree.n else best.new_empty(0)
        for first in range(0, self.tree.n if len(more) else 0, self.rows):
            known = self.full(torch.arange(first, min(self.tree.n, first + self.rows)))
            for some in more.split(self.rows):
                squares = torch.cdist(vectors[some].double(), known.double()).square()
                # Distances from matrix products are rounded; vectors that may be the nearest are compared without them.
                likely = squares <= squares.min(dim=1, keepdim=True).values.clamp(max=reach**2) + SLACK
                a, b = (likely & (squares <= reach**2)).nonzero(as_tuple=True)
                self._compare(vectors, some[a], first + b, best, number)
        return best, number

    def _compare(self, vectors: Tensor, query: Tensor, index: Tensor, best: Tensor, number: Tensor) -> None:
        """Compare pairs in full, and update `best` and `number` where a vector is nearer than before."""
        self.compared += len(query)
        for i, j in zip(query.split(PART), index.split(PART), strict=True):
            distance = (vectors[i] - self.full(j)).norm(dim=1)
            order = np.lexsort((j.numpy(), distance.numpy(), i.numpy()))
            _, first = np.unique(i.numpy()[order], return_index=True)
            i, j, distance = (each[torch.from_numpy(order[first])] for each in (i, j, distance))
            nearer = (distance < best[i]) | (distance == best[i]) & (j < number[i])
            nearer &= distance < self.radius
            best[i[nearer]], number[i[nearer]] = distance[nearer], j[nearer]
