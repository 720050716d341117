"""The budget of a race: reference seconds do not depend on the speed of the machine, nor change the training."""

import time
from types import SimpleNamespace

import pytest
import torch

from diffusion.training.budget import EVERY, PASSES, ReferenceBudget


def steps(speeds: list[float], resume: int | None = None) -> int:
    """The step at which 60 reference seconds end, if a step takes two passes and the speed changes at each step."""
    clock, trainer = [0.0], SimpleNamespace(global_step=0, should_stop=False, log_every_n_steps=0)
    module = SimpleNamespace(device=torch.device("cpu"), log=lambda *_, **__: None, clock=SimpleNamespace(total=10**6))

    class Timed(ReferenceBudget):
        def now(self) -> float:
            return clock[0]

        def time_pass(self) -> float:
            clock[0] += (spent := speeds[trainer.global_step % len(speeds)])
            return spent

    budget = Timed(60.0)
    budget.on_train_start(trainer, module)
    while not trainer.should_stop:
        clock[0] += 2 * speeds[trainer.global_step % len(speeds)]
        trainer.global_step += 1
        budget.on_train_batch_end(trainer, module, None, None, 0)
        if trainer.global_step == 7:  # a long validation is not counted
            budget.on_validation_start(trainer)
            clock[0] += 1e6
            budget.on_validation_end()
        if trainer.global_step == resume:
            state, budget = budget.state_dict(), Timed(60.0)
            budget.load_state_dict(state)
            budget.on_train_start(trainer, module)
    return trainer.global_step


@pytest.mark.parametrize("speeds", [[1.0], [20.0], [1.0] * EVERY + [3.0] * EVERY])
def test_a_slow_or_busy_machine_ends_at_the_same_step(speeds):
    assert steps(speeds) == pytest.approx(60 * PASSES / 2, rel=0.03)
    assert steps(speeds, resume=15) == steps(speeds)


def test_the_reference_network_leaves_the_random_numbers_of_the_run_alone():
    budget, module = ReferenceBudget(1.0), SimpleNamespace(device=torch.device("cpu"))
    before = torch.random.get_rng_state()
    budget.on_train_start(SimpleNamespace(), module)
    assert budget.time_pass() > 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_time_that_other_processes_use_does_not_count():
    budget = ReferenceBudget(1.0)
    budget.device = torch.device("cpu")
    before = budget.now()
    time.sleep(0.2)
    assert budget.now() - before < 0.1


def test_training_is_on_one_thread_and_what_follows_on_all(monkeypatch):
    used = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    budget, clock = ReferenceBudget(1.0), SimpleNamespace(total=10)
    module = SimpleNamespace(device=torch.device("cpu"), clock=clock)
    budget.on_train_start(SimpleNamespace(), module)
    budget.on_train_end(SimpleNamespace(global_step=10, lightning_module=module))
    assert used == [2, 1, 2]
