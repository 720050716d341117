"""Faults in diffusion/process/guidance.py and in counting its evaluations."""

from faults.fault import Fault

COST = "evaluation/test_cost.py"


def fault(what: str, sound: str, faulty: str, tests: str = "process/test_guidance.py") -> Fault:
    """A fault that the tests of guidance must detect."""
    return Fault(what, sound, faulty, tests)


FAULTS = [
    fault("scale: 1 + w instead of w", "of_weak + self.guidance.scale *", "of_weak + (1 + self.guidance.scale) *"),
    fault("scale: strong and weak swapped", "(of_strong - of_weak)", "(of_weak - of_strong)"),
    fault("eps is not guided", "eps=guided(strong.eps, weak.eps)", "eps=strong.eps"),
    fault("the spread comes from the weak model", "return strong._replace(x0=", "return weak._replace(x0="),
    fault("scale 1: the weak model is evaluated", "if self.guidance.scale == 1:", "if False:"),
    fault("interval: the low end is included", "(level > low) &", "(level >= low) &"),
    fault("interval: the high end is excluded", "& (level <= high)", "& (level < high)"),
    fault("interval: σ instead of σ/α", "    return sigma / alpha\n", "    return sigma\n"),
    fault("interval: one decision for the whole batch", "where = expand(acts, x_t).bool()", "where = acts.any()"),
    fault("interval: the weak model is evaluated outside", "if self.guidance.limited and not acts.any():", "if False:"),
    fault("interval: one outside the schedule is accepted", "if high < least or low >= largest:", "if False:"),
    fault("interval: low at the schedule's last level is accepted", "low >= largest:", "low > largest:"),
    fault("interval: high at a table's first level is refused", "if high < least or", "if high <= least or"),
    fault("interval: a table is assumed to begin at noise level 0", '1 / getattr(schedule, "steps", math.inf)', "0.0"),
    fault(
        "interval: not checked against the denoiser's schedule",
        "self.check(denoise.schedule)\n        if weak",
        "if weak",
    ),
    fault("interval: low above high is accepted", "if not 0 <= low < high:", "if low < 0:"),
    fault("interval: a negative level is accepted", "if not 0 <= low < high:", "if not low < high:"),
    fault("scale: a negative scale is accepted", "if not 0 <= self.scale < math.inf:", "if not self.scale < math.inf:"),
    fault("scale: an infinite scale is accepted", "if not 0 <= self.scale < math.inf:", "if not 0 <= self.scale:"),
    fault("classifier-free: the weak estimate gets the labels too", 'if name != "classes"', "if name"),
    fault("classifier-free: the weak estimate gets no other conditions", 'if name != "classes"', "if not name"),
    fault(
        "classifier-free: a separate weak model is ignored",
        "return denoise if weak is None else weak",
        "return denoise",
    ),
    fault("classifier-free: missing labels are accepted", 'if conditions.get("classes") is None:', "if False:"),
    fault("auto: the worse model gets no labels", "        return conditions\n", "        return {}\n"),
    fault(
        "auto: a missing worse model is accepted", "if weak is None:\n            raise", "if False:\n            raise"
    ),
    fault("a weak model with another schedule is accepted", "not same(denoise.schedule, weak.schedule)", "False"),
    fault("cost: evaluations as counted by the sampler", "return blank.calls", "return sampler.evaluations", COST),
    fault(
        "cost: guidance is left out",
        "return evaluations(self.sampler, schedule, self.guidance)",
        "return self.sampler.steps",
        COST,
    ),
]
