"""The verdict of a race: whether an entry's runs are better than those of the holder of the record.

The score of a run is fd_lite0, the Fréchet distance of its samples to the training tiles by one eye of the referee.
Lower is better. Samples that please this network only do not count: no other eye may see more than it, and the filters
of two of them are drawn after the samples.

The energy distance by which the eyes judge is no score: of 1280 features, it sees the mean and the spread, and of the
correlations little. It does not tell the demo after 930 steps from that after 2100, whose fd_lite0 is lower by a fifth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats

from diffusion.findings.numbers import number
from diffusion.findings.verdict import copying
from diffusion.runs.folder import Run

LEAST, LEVEL, MOST = 3, 0.05, 20  # seeds of an entry, probability of a false record, seeds that a forecast looks at


def score_of(run: Run) -> float:
    """The score of a run that the referee has judged."""
    return next(x.value for x in run.scores if (x.metric, x.reference.split) == ("fd_lite0", "train"))


def gate(run: Run) -> str:
    """Why a run does not count: trained weights of another run, copies, too little diversity, another eye that sees
    more than lite0, by its energy distance over the margin of chance; "" if it does.
    """
    if run.config.get("init") or (run.config.get("guidance") or {}).get("ckpt"):
        return "it uses weights that were trained outside of the budget"
    if found := copying(run.scores).get("copies"):
        return found
    seen = {name: max(0.0, eye["distance"]) / eye["margin"] for name, eye in run.referee["further"]["eyes"].items()}
    if (most := max(seen, key=seen.__getitem__)) != "lite0":
        return f"by {most} its samples are further from the training tiles than by lite0, whose distance is the score"
    return next((f"its samples are {x['fault']}" for x in run.faults if x["fault"] in ("alike", "repeated")), "")


@dataclass(frozen=True)
class Race:
    """The scores of an entry's seeds and of the holder's."""

    entry: Sequence[float]
    holder: Sequence[float]

    @property
    def difference(self) -> float:
        """The entry's mean minus the holder's; below 0, the entry is better."""
        return fmean(self.entry) - fmean(self.holder)

    def half(self, n: int | None = None) -> float:
        """The one-sided margin of the difference, of Welch's test, with n seeds of the entry of the same deviation.

        The first look is at `LEAST` seeds, and look k has the level LEVEL/2ᵏ. These add up to less than LEVEL, so an
        entry may add seeds until it is a record, and is a false one with a probability of at most LEVEL.
        """
        n = n or len(self.entry)
        a, b = np.var(self.entry, ddof=1) / n, np.var(self.holder, ddof=1) / len(self.holder)
        freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (len(self.holder) - 1))
        return float(stats.t.isf(LEVEL / 2 ** (n - LEAST + 1), freedom) * math.sqrt(a + b))

    @property
    def record(self) -> bool:
        """Whether the entry is shown to be better."""
        return self.difference + self.half() < 0

    @property
    def more(self) -> int | None:
        """How many more seeds would make it a record, if these showed the same; None if not even many would."""
        n = len(self.entry)
        enough = (m for m in range(n, MOST + 1) if self.difference + self.half(m) < 0)
        return next((m - n for m in enough), None)

    def __str__(self) -> str:
        found = f"{number(self.difference, self.half())} ± {number(self.half(), self.half())}"
        if self.record:
            return f"A record: better by {found.lstrip('-−')}."
        seeds = "seed" if self.more == 1 else "seeds"
        tell = f"{self.more} more {seeds} would tell" if self.more else f"nor would {MOST} seeds show it"
        return f"Not shown to be better: {found}; {tell}."
