"""Work in threads: results wait for their use only in limited numbers."""

import time

from diffusion.data.threads import streamed


def test_results_that_are_used_slowly_do_not_fill_the_memory() -> None:
    done: list[int] = []
    ahead = 0
    for used, _ in enumerate(streamed(done.append, range(3000), "counting")):
        time.sleep(0.0005)
        ahead = max(ahead, len(done) - used)
    assert len(done) == 3000
    assert ahead <= 500
