"""Faults in the draws of random streams, and in a run's messages about them."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import scipy.stats  # noqa: F401
from faults.fault import Fault

PUBLISHED = "test_philox_matches_the_random123_test_vectors"
BOX_MULLER = "test_normal_numbers_follow_the_box_muller_transform"
UNIFORM = "test_uniform_numbers_have_53_bits_or_24_without_float64"
BOUNDS = "test_extreme_philox_words_give_numbers_within_bounds"
ALONE = "test_the_draws_of_an_example_depend_only_on_its_seed"
PLACES = "test_a_shorter_draw_is_a_prefix_of_a_longer_one"
TIMES = "test_the_second_draw_does_not_depend_on_the_kind_of_the_first"
SPREAD = "test_successive_draws_of_stratified_times_differ"
BITS = "test_every_bit_of_a_seed_changes_the_draws"
COUNT = "test_the_number_of_operations_does_not_depend_on_the_batch_size"
INDEPENDENT = "test_numbers_are_uncorrelated_across_seeds_draws_and_positions"
RESUMED = "training/test_resume.py::test_a_changed_noise_generator_is_reported_once_on_resume"
AWAY = "training/test_device.py::test_objectives_equal_the_cpu_without_device_synchronization[timesteps=uniform]"


def fault(what: str, sound: str, faulty: str, test: str) -> Fault:
    return Fault(what, sound, faulty, f"test_randomness.py::{test}")


FAULTS = [
    fault("nine rounds instead of ten", "ROUNDS = 10", "ROUNDS = 9", PUBLISHED),
    fault("multipliers swapped", "(0xD2511F53, 0xCD9E8D57)", "(0xCD9E8D57, 0xD2511F53)", PUBLISHED),
    fault("the key is the same in every round", "+ _increments(device)", "+ _increments(device)[:1]", PUBLISHED),
    fault("halves of the key swapped", "high = low >> 32", "low, high = low >> 32, low", PUBLISHED),
    fault("the even word keeps bits above the lower 32", "        even &= low\n", "", PUBLISHED),
    fault("the odd word has more than 32 bits", "return even, odd & low", "return even, odd", PUBLISHED),
    fault("only 32 bits of a seed are used", "high = low >> 32", "high = 0 * low", BITS),
    fault("only 31 bits of a word are used", "LOW = 2**32 - 1", "LOW = 2**31 - 1", BITS),
    fault("u may be 0", "(u + 1).to(real)", "u.to(real)", BOUNDS),
    fault("the same word for u and v", "angle = v.to(real)", "angle = u.to(real)", BOX_MULLER),
    fault("two cosines instead of cosine and sine", "angle.sin_()", "angle.cos_()", INDEPENDENT),
    fault(
        "Box–Muller: angles cover only half a circle", "2 * math.pi * 2.0**-bits", "math.pi * 2.0**-bits", BOX_MULLER
    ),
    fault("log u instead of 2 log u", ".mul_(-2)", ".mul_(-1)", BOX_MULLER),
    fault("only 32 of 53 bits are random", "(even << 21) | (odd >> 11)", "(even << 21)", UNIFORM),
    fault("uniform numbers reach 1", "(word >> 53 - bits).to(dtype)", "word.to(dtype) * 2.0 ** (bits - 53)", BOUNDS),
    fault("every draw is the first", "return self.draws - 1", "return 0", BOX_MULLER),
    fault(
        "stratified times do not count as a draw",
        '"stratified", self.batch_seed, self._next()',
        '"stratified", self.batch_seed',
        TIMES,
    ),
    fault(
        "stratified times are the same in every draw",
        '"stratified", self.batch_seed, self._next()',
        '"stratified", self.batch_seed, 0 * self._next()',
        SPREAD,
    ),
    fault("numpy: every chunk begins at block 0", "np.arange(first, end)", "np.arange(0, end - first)", ALONE),
    fault("torch: every chunk begins at block 0", "torch.arange(first, end,", "torch.arange(0, end - first,", ALONE),
    fault(
        "every chunk uses the keys of the first examples",
        "keys[:, :, i : i + rows]",
        "keys[:, :, : min(rows, len(self) - i)]",
        ALONE,
    ),
    fault("chunks of only one example", "rows = max(1, most // max(1, blocks))", "rows = 1", COUNT),
    fault("a draw is not contiguous", ".to(dtype).contiguous()", ".to(dtype)", PLACES),
    Fault("copies to a device wait", ', non_blocking=device.type != "mps")', ")", AWAY),
    Fault(
        "copies to MPS do not wait",
        'non_blocking=device.type != "mps"',
        "non_blocking=True",
        "training/test_device.py::test_batches_are_copied_to_mps_with_a_wait",
    ),
    Fault("a changed noise generator is not reported", "if resumed.noise != GENERATOR:", "if False:", RESUMED),
    Fault("the noise generator is always reported as changed", "if resumed.noise != GENERATOR:", "if True:", RESUMED),
    Fault("an unknown noise generator has no name in the message", "or 'an older generator'", "or None", RESUMED),
    Fault("a checkpoint does not record its noise generator", '        checkpoint["noise"] = GENERATOR\n', "", RESUMED),
]
