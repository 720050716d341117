"""What an experiment's comment states: GPU hours from its network, batches and steps, and settings of the authors."""

import pytest
from composing import settings

PEAK, SHARE = 989e12, 0.35  # FLOP/s of an H100 in bfloat16, and the used share


def test_recipes_have_the_authors_constants():
    """EDM2: the eps of Adam for a loss that is their sum over values as a mean. Steps: NVlabs' README files."""
    edm2 = settings(["experiment=edm2"])
    assert edm2.optimizer["eps"] == pytest.approx(1e-8 / (3 * 64**2), rel=0.01)
    assert edm2.sampler["steps"] == 32
    assert settings(["experiment=edm"]).sampler["steps"] == 40
    ve = settings(["experiment=score_sde_ve"]).schedule  # twice those for pixels in [0, 1]
    assert (ve["sigma_min"], ve["sigma_max"]) == (2 * 0.01, 2 * 50)
