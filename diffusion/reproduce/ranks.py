"""Whether the columns of a table rank the same models alike."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import stats

from diffusion.randomness import seed_for
from diffusion.report.formatting import MISSING, markdown_table
from diffusion.reproduce.table import Table

DRAWS = 1000  # of the bootstrap
FEWEST = 5  # recipes, below which there is no interval


def ranks_table(table: Table, columns: Sequence[str]) -> str:
    """Markdown: Spearman's ρ of each pair of columns over all models, with a 95% interval over recipes.

    Models are the recipes with each of their seeds. A column in which higher is better counts with the opposite sign:
    ρ = 1 means that both columns put the models in the same order, from good to bad. The interval is that of a
    bootstrap that draws recipes, with all their seeds: the seeds of a recipe are no models of different quality.
    """
    low = {column.name: column.lower is not False for column in table.columns}
    shown = [name for name in columns if name in low]
    clusters = [
        np.array([[values[name] * (1 if low[name] else -1) for name in shown] for values in by_seed.values()])
        for by_seed in table.numbers.values()
    ]
    found = correlations(np.concatenate(clusters))
    draws = resampled(clusters) if len(clusters) >= FEWEST else None
    lines = []
    for i, j in combinations(range(len(shown)), 2):
        known = not np.isnan(found[i, j])
        rho, interval = f"{found[i, j]:.2f}" if known else MISSING, MISSING
        if known and draws is not None:
            low_end, high_end = np.nanquantile(draws[:, i, j], [0.025, 0.975])
            interval = f"[{low_end:.2f}, {high_end:.2f}]"
        lines.append([shown[i], shown[j], rho, interval])
    return markdown_table(("by", "and by", "Spearman's ρ", "95% interval"), lines, right=(2, 3))


def correlations(values: np.ndarray) -> np.ndarray:
    """(columns, columns): Spearman's ρ of (models, columns); NaN for a column of equal numbers."""
    ranks = np.stack([stats.rankdata(column) for column in values.T])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(ranks))


def resampled(clusters: Sequence[np.ndarray]) -> np.ndarray:
    """(`DRAWS`, columns, columns): the correlations of as many recipes, drawn with repetition."""
    random = np.random.default_rng(seed_for("ranks"))
    draws = random.integers(len(clusters), size=(DRAWS, len(clusters)))
    return np.stack([correlations(np.concatenate([clusters[k] for k in draw])) for draw in draws])
