"""Faults in the draws of random streams, and in a run's messages about them."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import scipy.stats  # noqa: F401
from faults.fault import Fault

PUBLISHED = "test_the_words_are_those_that_random123_publishes"
BOX_MULLER = "test_normal_numbers_are_box_and_muller_s_of_the_words"
UNIFORM = "test_uniform_numbers_are_53_bits_or_24_where_there_is_no_float64"
BOUNDS = "test_the_lowest_and_the_highest_words_are_in_the_bounds"
ALONE = "test_the_draws_of_an_example_depend_on_its_seed_alone"
PLACES = "test_number_j_of_a_draw_does_not_depend_on_how_many_are_drawn"
TIMES = "test_a_draw_of_noise_is_the_same_after_any_draw_of_times"
SPREAD = "test_successive_draws_of_evenly_spread_times_differ"
BITS = "test_all_bits_of_a_seed_count"
COUNT = "test_a_batch_of_any_size_is_drawn_by_as_many_operations"
INDEPENDENT = "test_seeds_draws_and_places_are_independent"
RESUMED = "training/test_resume.py::test_a_run_that_goes_on_with_other_noise_says_so_once"
AWAY = "training/test_device.py::test_no_objective_waits_for_the_device[timesteps=uniform]"


def fault(what: str, sound: str, faulty: str, test: str) -> Fault:
    return Fault(what, sound, faulty, f"test_randomness.py::{test}")


FAULTS = [
    fault("nine rounds", "ROUNDS = 10", "ROUNDS = 9", PUBLISHED),
    fault("multipliers exchanged", "(0xD2511F53, 0xCD9E8D57)", "(0xCD9E8D57, 0xD2511F53)", PUBLISHED),
    fault("the key stays", "low + rounds * WEYL[0]", "low + 0 * rounds", PUBLISHED),
    fault("halves of the key exchanged", "high = low >> 32", "low, high = low >> 32, low", PUBLISHED),
    fault("a product keeps its sign", "        even &= LOW\n", "", PUBLISHED),
    fault("words of more than 32 bits", "return even, odd & LOW", "return even, odd", PUBLISHED),
    fault("32 bits of a seed", "high = low >> 32", "high = 0 * low", BITS),
    fault("31 bits of a word", "LOW = 2**32 - 1", "LOW = 2**31 - 1", BITS),
    fault("u may be 0", "(u + 1).to(real)", "u.to(real)", BOUNDS),
    fault("one word for u and v", "angle = v.to(real)", "angle = u.to(real)", BOX_MULLER),
    fault("two cosines", "angle.sin_()", "angle.cos_()", INDEPENDENT),
    fault("half a circle", "2 * math.pi * 2.0**-bits", "math.pi * 2.0**-bits", BOX_MULLER),
    fault("log u instead of 2 log u", ".mul_(-2)", ".mul_(-1)", BOX_MULLER),
    fault("32 of 53 bits", "(even << 21) | (odd >> 11)", "(even << 21)", UNIFORM),
    fault("uniform numbers reach 1", "(word >> 53 - bits).to(dtype)", "word.to(dtype) * 2.0 ** (bits - 53)", BOUNDS),
    fault("every draw is the first", "return self.draws - 1", "return 0", BOX_MULLER),
    fault(
        "spread times do not count",
        '"stratified", self.batch_seed, self._next()',
        '"stratified", self.batch_seed',
        TIMES,
    ),
    fault(
        "spread times never change",
        '"stratified", self.batch_seed, self._next()',
        '"stratified", self.batch_seed, 0 * self._next()',
        SPREAD,
    ),
    fault("every part begins at block 0", "torch.arange(first, end,", "torch.arange(0, end - first,", ALONE),
    fault("every part has the first keys", "keys[:, :, i : i + rows]", "keys[:, :, : min(rows, len(self) - i)]", ALONE),
    fault("parts of one example", "rows = max(1, most // max(1, blocks))", "rows = 1", COUNT),
    fault("a draw is not contiguous", ".to(dtype).contiguous()", ".to(dtype)", PLACES),
    Fault("the seeds' copy is waited for", ', non_blocking=device.type != "mps")', ")", AWAY),
    Fault("a run is silent on other noise", "if resumed.noise != GENERATOR:", "if False:", RESUMED),
    Fault("a run always speaks of noise", "if resumed.noise != GENERATOR:", "if True:", RESUMED),
    Fault("no name for missing noise", "or 'an older generator'", "or None", RESUMED),
    Fault("a checkpoint forgets its noise", '        checkpoint["noise"] = GENERATOR\n', "", RESUMED),
]
