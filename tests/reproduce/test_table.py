"""A committed table: its content, and when another table agrees with it."""

import math
import re

import pytest

from diffusion.report.comparison import recipes_table
from diffusion.report.recipes import Column, Mean
from diffusion.reproduce.ranks import ranks_table
from diffusion.reproduce.table import Table, agree, agreeing, disagreements, uncompared

SHOWN = ("fd", "coverage")
COLUMNS = (Column("fd", True, "fd: how"), Column("coverage", False, "coverage: how"))
NUMBERS = {
    ("linear", "a,b"): {"0": {"fd": 10.0, "coverage": 0.5}, "1": {"fd": 12.0, "coverage": 0.25}},
    ("cosine", "—"): {"0": {"fd": 0.1 + 0.2}, "1": {"fd": 1e-7}},
}
TABLE = Table(("schedule", "note"), COLUMNS, NUMBERS)


def changed(recipe, column, values):
    """TABLE with other numbers in a cell, by seed; `values=None` removes them."""
    numbers = {key: {seed: dict(row) for seed, row in rows.items()} for key, rows in NUMBERS.items()}
    for i, seed in enumerate(numbers[recipe]):
        if values is None:
            del numbers[recipe][seed][column]
        else:
            numbers[recipe][seed][column] = values[i]
    return Table(TABLE.settings, COLUMNS, numbers)


def test_a_table_survives_writing_and_reading():
    again = Table.read(TABLE.text(), TABLE.protocols())
    assert again == TABLE
    assert recipes_table(again.comparison(SHOWN)) == recipes_table(TABLE.comparison(SHOWN))
    assert "coverage" not in recipes_table(TABLE.comparison(["fd"]))
    assert "| linear | a,b | 2 | 11 ± 13 ≈ |" in recipes_table(TABLE.comparison(SHOWN))
    numbered = TABLE.comparison(SHOWN)
    numbered.rows[1].label = "b" * 53
    assert "| 1 | linear | a,b | 2 | 11 ± 13 ≈ |" in recipes_table(numbered)


def test_several_samplings_of_one_model_count_as_one_seed():
    def sampled(draws):
        """Eight models with three training seeds, each sampled with these seeds."""
        places, seeds = enumerate("abcdefgh"), [(10.0, 0.5), (12.0, 0.25), (14.0, 0.75)]
        numbers = {
            (name,): {f"{s}/{d}": {"fd": fd + i + d, "coverage": x} for s, (fd, x) in enumerate(seeds) for d in draws}
            for i, name in places
        }
        return Table(("model",), COLUMNS, numbers)

    alone, table = sampled([0]), sampled([-1, 0, 1])
    assert table.mean(("a",), "fd") == alone.mean(("a",), "fd")
    assert recipes_table(table.comparison(SHOWN)) == recipes_table(alone.comparison(SHOWN))
    assert "| a | 3 | **12.0 ± 5.0** |" in recipes_table(table.comparison(SHOWN))
    assert ranks_table(table, SHOWN) == ranks_table(alone, SHOWN)


def test_every_differing_cell_is_reported():
    assert [*disagreements(TABLE, TABLE)] == []
    assert agreeing(TABLE, TABLE) == (3, 3)  # one of the four cells has no number
    within = changed(("linear", "a,b"), "fd", [20.0, 22.0])  # each has an interval of ± 12.7
    assert [*disagreements(TABLE, within)] == []
    beyond = changed(("linear", "a,b"), "fd", [30.0, 32.0])
    assert [*disagreements(TABLE, beyond)] == ["schedule=linear, note=a,b: fd is 31 ± 13, committed: 11 ± 13"]
    assert agreeing(TABLE, beyond) == (2, 3)
    lost = changed(("cosine", "—"), "fd", None)
    assert [*disagreements(TABLE, lost)] == ["schedule=cosine, note=—: fd was not measured again"]
    assert agreeing(TABLE, lost) == (2, 3)
    other = Table(("schedule", "grid"), COLUMNS, NUMBERS)
    assert [*disagreements(TABLE, other)] == ["the recipes differ in schedule, grid; committed: schedule, note"]
    assert agreeing(TABLE, other) == (0, 3)
    (line,) = disagreements(TABLE, Table(TABLE.settings, (COLUMNS[0], Column("coverage", False, "else")), NUMBERS))
    assert agreeing(TABLE, Table(TABLE.settings, (COLUMNS[0], Column("coverage", False, "else")), NUMBERS)) == (2, 3)
    assert line == "coverage: measured under another protocol: else; committed: coverage: how"


def test_numbers_of_one_seed_are_listed_but_not_compared():
    one, other = (Table(("model",), COLUMNS, {("a",): {"0": {"fd": fd, "coverage": 0.5}}}) for fd in (10.0, 10.00001))
    assert agreeing(one, one) == (2, 2)
    assert [*uncompared(one, one)] == []
    assert agreeing(one, other) == (1, 1)
    assert [*disagreements(one, other)] == []
    assert [*uncompared(one, other)] == ["model=a: fd is 10.00001, committed: 10 (one seed, so no interval)"]
    assert [*uncompared(TABLE, changed(("linear", "a,b"), "fd", [30.0, 32.0]))] == []


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ((0.0, 3.0, 3), (5.0, 4.0, 3), True),
        ((0.0, 3.0, 3), (5.1, 4.0, 3), False),
        ((1.0, math.nan, 1), (1.0, math.nan, 1), True),
        ((1.0, math.nan, 1), (1.01, 5.0, 3), False),
    ],
)
def test_means_agree_within_the_interval_of_their_difference(a, b, same):
    assert agree(Mean(*a), Mean(*b)) == same


def ranked(models: dict[str, list[tuple[float, float, float]]]) -> str:
    """The table of ranks of recipes, each with the numbers of its seeds: two distances and a coverage."""
    names = {"fd": True, "kid": True, "coverage": False}
    numbers = {
        (recipe,): {str(seed): dict(zip(names, values, strict=True)) for seed, values in enumerate(seeds)}
        for recipe, seeds in models.items()
    }
    columns = tuple(Column(name, lower, name) for name, lower in names.items())
    return ranks_table(Table(("recipe",), columns, numbers), [*names, "not measured"])


def test_rank_correlations_account_for_the_direction_of_each_metric():
    text = ranked({f"{i}": [(i + s / 10, i**3 + s / 10, -i - s / 10) for s in range(2)] for i in range(8)})
    assert "| fd | kid | 1.00 | [1.00, 1.00] |" in text
    assert "| fd | coverage | 1.00 | [1.00, 1.00] |" in text
    opposite = ranked({f"{i}": [(i, -i, i)] for i in range(8)})
    assert "| fd | kid | -1.00 | [-1.00, -1.00] |" in opposite
    assert "| kid | coverage | 1.00 |" in opposite


def test_more_seeds_do_not_narrow_the_interval_of_a_rank_correlation():
    """By chance alone: eight recipes in a different order, with many seeds each."""
    order = [3.0, 0.0, 6.0, 1.0, 5.0, 2.0, 7.0, 4.0]
    text = ranked({f"{i}": [(i, order[i], 0.0)] * 50 for i in range(8)})
    low, high = map(float, re.search(r"fd \| kid \| 0.40 \| \[(.*), (.*)\]", text).groups())
    assert low < 0 < 0.8 < high
    assert "| fd | coverage | — | — |" in text
    few = ranked({f"{i}": [(i, i, i)] for i in range(7)})
    assert "| fd | kid | 1.00 | — |" in few
