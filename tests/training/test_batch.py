"""data.global_batch_size: steps have this size and the same numbers however they are divided; auto: what fits."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composing import settings, train
from outcomes import lines, refusal, same, state
from torch import nn

from diffusion.checkpoint import storage
from diffusion.data import Batch
from diffusion.errors import UserError
from diffusion.model import UNet
from diffusion.runs.metrics import read_metrics
from diffusion.training import batch, trials
from diffusion.training.clock import Clock
from diffusion.training.module import Diffusion
from diffusion.training.recipe import Recipe
from diffusion.training.run import make_trainer

RECIPES = {
    "crops": ["crops=random", "timesteps@objective.timesteps=stratified", "trainer.limit_train_batches=0.7"],
    "adaptive": [
        "timesteps@objective.timesteps=loss_second_moment",
        "objective.timesteps.history=1",
        "schedule.steps=4",
    ],
}
FORWARD = UNet.forward


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Simulate memory for training batches of at most `most` images; each step uses torch's own generator."""
    there = SimpleNamespace(
        most=3, tried=[], error=torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
    )

    def forward(self: UNet, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.training:
            there.tried.append(len(x))
            torch.rand(1)
            if len(x) > there.most:
                raise there.error
        return FORWARD(self, x, *args, **kwargs)

    monkeypatch.setattr(UNet, "forward", forward)
    return there


@pytest.mark.parametrize("recipe", RECIPES)
def test_results_do_not_depend_on_how_the_global_batch_is_divided(tiny: list[str], tmp_path: Path, recipe: str) -> None:
    common = [*tiny, *RECIPES[recipe], "trainer.precision=64-true", "model.dropout=0.2", "samples.n=0"]
    common += ["trainer.max_epochs=3", "trainer.val_check_interval=1", "ema.decay=0.9", "data.global_batch_size=8"]
    for size in (8, 4, 2):
        train([*common, f"data.batch_size={size}"], tmp_path / f"{size}")
        record = json.loads((tmp_path / f"{size}/run.json").read_text())
        assert record["batch"] == {"images": 8, "size": size, "accumulate": 8 // size, "devices": 1}
    whole, log = state(tmp_path / "8"), read_metrics(tmp_path / "8/metrics.csv")
    assert whole["global_step"] == (6 if recipe == "crops" else 9)  # 24 images are 3 steps, and 0.7 of these are 2
    for size in (4, 2):
        parts, logged = state(tmp_path / f"{size}"), read_metrics(tmp_path / f"{size}/metrics.csv")
        for name, value in whole["current_model_state"].items():
            assert float((value - parts["current_model_state"][name]).abs().nan_to_num().max()) <= 1e-12, name
        assert logged.keys() == log.keys()
        assert usual_losses(tmp_path / f"{size}") == pytest.approx(usual_losses(tmp_path / "8"), rel=1e-5)
        for name, series in log.items():  # including the loss of all images
            assert list(logged[name].step) == list(series.step), name
            assert list(logged[name].value) == pytest.approx(list(series.value), rel=1e-5, abs=1e-7, nan_ok=True), name


def usual_losses(folder: Path) -> list[float]:
    """The usual losses that the guard compares with."""
    callbacks = storage.load(folder / "checkpoints/last.ckpt")["callbacks"]
    (found,) = (content["usual"] for name, content in callbacks.items() if "Guard" in name)
    return found


def test_auto_batch_size_is_the_largest_fitting_divisor_without_side_effects(tiny, tmp_path, limit, capfd) -> None:
    common = [*tiny, "data.global_batch_size=24", "trainer.max_epochs=4", "samples.n=2"]
    train([*common, "data.batch_size=3"], tmp_path / "given")
    limit.tried.clear()
    capfd.readouterr()
    train([*common, "data.batch_size=auto"], tmp_path / "auto")
    assert limit.tried[1:6] == [1, 1, 2, 3, 4]  # after the single image that tests every recipe
    said = "24 images per step = 3 × 8 batches on 1 device"
    assert f"batch: {said} (3 is the largest that fits: 4 needs more than " in capfd.readouterr().out
    assert same(state(tmp_path / "auto"), state(tmp_path / "given"))
    assert lines(tmp_path / "auto") == lines(tmp_path / "given")
    assert "| images per step | 24: 3 × 8 batches on 1 device |" in (tmp_path / "auto/README.md").read_text()


def divided(tiny: list[str], folder: Path, *overrides: str) -> Any:
    """The division of a step, and the weights and the state of torch's generator before and after the search."""
    chosen = settings([*tiny, "data.batch_size=auto", *overrides])
    recipe = Recipe.build(chosen)
    recipe.data.setup()
    trainer = make_trainer(chosen, folder, None)
    module = Diffusion(chosen, recipe, batch.clock_of(chosen, recipe.data, 1))
    before = {name: value.clone() for name, value in module.state_dict().items()}, torch.get_rng_state()
    record = SimpleNamespace(update=lambda **_: None)
    division = batch.divide(module, recipe.data, trainer, 1, folder, record)
    return division, before, (module.state_dict(), torch.get_rng_state())


def test_the_batch_size_search_changes_no_weights_and_no_random_state(tiny, tmp_path, limit) -> None:
    division, before, after = divided(tiny, tmp_path, "data.global_batch_size=12")
    assert division.size == 3
    assert len(limit.tried) == 5
    assert same(before, after)


def test_auto_batch_size_on_a_cpu_is_small_and_fits_in_memory(tiny, tmp_path, monkeypatch, capfd) -> None:
    assert divided(tiny, tmp_path, "data.global_batch_size=24")[0].size == 8
    assert "larger batches are no faster on a CPU" in capfd.readouterr().out
    assert divided(tiny, tmp_path, "data.global_batch_size=6")[0].size == 6
    assert "the whole step fits in one batch" in capfd.readouterr().out
    tried, step = [], trials.Trials.step
    monkeypatch.setattr(trials.Trials, "step", lambda self, size: (tried.append((size, self)), step(self, size)))
    divided(tiny, tmp_path, "data.global_batch_size=4")
    kept = tried[0][1].memory.kept
    monkeypatch.setattr(trials, "free_bytes", lambda: int(trials.WORKING * 3.5 * kept / trials.SHARE))
    tried.clear()
    assert divided(tiny, tmp_path, "data.global_batch_size=24")[0].size == 3
    assert max(size for size, _ in tried) == 3  # four are not tried
    monkeypatch.setattr(trials, "free_bytes", lambda: 1000)
    with pytest.raises(UserError, match="a step with one image needs more memory than is available"):
        divided(tiny, tmp_path, "data.global_batch_size=24")


def found(tiny: list[str], folder: Path, averages: int) -> tuple[Diffusion, tuple[int, str]]:
    """The module, and the batch size that a search finds for a step of 4 images, with the reason."""
    chosen = settings([*tiny, "data.batch_size=auto", "data.global_batch_size=4"])
    recipe = Recipe.build(chosen)
    recipe.data.setup()
    module = Diffusion(chosen, recipe, batch.clock_of(chosen, recipe.data, 1))
    return module, batch.find_size(module, recipe.data, make_trainer(chosen, folder, None), averages, 4, None)


@pytest.mark.parametrize("averages", [0, 2])
def test_trials_hold_the_copies_of_the_weights_that_the_run_will_hold(tiny, tmp_path, monkeypatch, averages) -> None:
    held, step = [], trials.Trials.step

    def noted(self: trials.Trials, size: int) -> None:
        held.append(sum(copy.numel() for copy in self.held))
        step(self, size)

    monkeypatch.setattr(trials.Trials, "step", noted)
    module, _ = found(tiny, tmp_path, averages)
    assert {*held} == {averages * sum(weight.numel() for weight in module.parameters())}


@pytest.mark.parametrize(("before", "after"), [(0, 10**12), (10**12, 0)])
def test_memory_is_measured_once_the_weights_are_allocated(tiny, tmp_path, monkeypatch, before, after) -> None:
    monkeypatch.setattr(trials, "free_bytes", itertools.chain([before], itertools.repeat(after)).__next__)
    if after:
        assert found(tiny, tmp_path, 0)[1] == (4, "the whole step fits in one batch")
    else:
        with pytest.raises(UserError, match="a step with one image needs more memory than is available"):
            found(tiny, tmp_path, 0)


def test_saved_activations_are_counted_once_and_without_the_weights() -> None:
    memory, layer = trials.Memory(), nn.Linear(4, 4)
    x = torch.ones(6, 4)
    with memory.watching(6, layer):  # type: ignore[arg-type]
        (layer(x) * layer(x).exp()).sum()
    assert memory.kept == 3 * 4 * 4  # x and both factors, one of which is the result of exp


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory (MPS allocated: …)")],
)
def test_a_batch_that_does_not_fit_is_recognised_on_every_device(tiny, tmp_path, limit, capfd, error) -> None:
    limit.error = error
    words = ["data.global_batch_size=12", "data.batch_size=auto", "samples.n=0", "trainer.max_steps=1"]
    train([*tiny, *words], tmp_path / "run")
    assert "3 is the largest" in capfd.readouterr().out


def test_a_tenth_of_the_gpu_memory_stays_free(monkeypatch) -> None:
    numbers = {"mem_get_info": (900, 2000), "memory_reserved": 100, "max_memory_reserved": 900}
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    card = trials.Card(torch.device("cuda"))
    assert (card.room, card.allows(10**9), card.was_enough()) == (900, True, True)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 901)
    assert not card.was_enough()


def test_a_resumed_run_keeps_its_batch_size_if_it_fits(tiny, tmp_path, limit, capfd) -> None:
    common = [*tiny, "data.global_batch_size=12", "data.batch_size=auto", "trainer.precision=64-true", "samples.n=0"]
    train([*common, "checkpoint.keep=9"], tmp_path / "whole")
    ckpt = f"ckpt={storage.numbered(tmp_path / 'whole/checkpoints', 2)}"
    capfd.readouterr()
    for most, said in ((9, "3 × 4 batches on 1 device (as before)"), (2, "2 × 6 batches on 1 device (2 is the lar")):
        limit.most = most
        train([*common, ckpt], tmp_path / f"{most}")
        assert f"batch: 12 images per step = {said}" in capfd.readouterr().out
    assert same(state(tmp_path / "9"), state(tmp_path / "whole"))
    weights, other = (state(tmp_path / name)["state_dict"] for name in ("whole", "2"))
    assert max(float((weights[name] - other[name]).abs().max()) for name in weights) <= 1e-12


REFUSED = {
    "auto of nothing": (["data.batch_size=auto"], "data.batch_size=auto: ", "such as data.global_batch_size=64"),
    "two that decide": (
        ["data.global_batch_size=8", "trainer.accumulate_grad_batches=2"],
        "trainer.accumulate_grad_batches=2: data.global_batch_size=8 already sets",
        "; set trainer.accumulate_grad_batches=1",
    ),
    "no divisor": (
        ["data.global_batch_size=9"], "data.batch_size=4: data.global_batch_size=9, and it cannot",
        "data.batch_size=3, or data.batch_size=auto",
    ),
    "too many": (["data.global_batch_size=25"], "data.global_batch_size=25: the training split has 24", "lower it"),
    "devices": (
        ["data.global_batch_size=7", "trainer.devices=2"],
        "data.global_batch_size=7: it cannot be divided equally among 2 devices", "such as 8",
    ),
    "a part of a device": (
        ["data.global_batch_size=12", "trainer.devices=2"], "the 6 images of each device cannot be",
        "data.batch_size=3",
    ),
    "no number": (["data.global_batch_size=all"], "data.global_batch_size=all: expected a whole number", "null"),
    "no word": (["data.batch_size=some"], "data.batch_size=some: expected a whole number", "or auto"),
    "pairs": (["data.global_batch_size=8", "data.batch_size=auto", "noise@objective.noise=ot"], "auto: the noise", "="),
    "nothing fits": (["data.global_batch_size=8", "data.batch_size=auto"], "auto: a step with one image", "bf16"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_batch_size_settings_give_one_line_errors(command, tiny, case, monkeypatch) -> None:
    words, found, mending = REFUSED[case]
    monkeypatch.setattr(trials, "free_bytes", lambda: 1000)
    line = refusal(command("train", [*tiny, *words, "hydra.run.dir=run"]))
    assert found in line
    assert mending in line


def test_auto_batch_size_is_refused_outside_of_a_run(tiny) -> None:
    data = Recipe.build(settings([*tiny, "data.batch_size=auto", "data.global_batch_size=8"])).data
    data.setup()
    with pytest.raises(UserError, match=r"data\.batch_size=auto: only diffusion\.train"):
        data.train_dataloader()


def test_the_global_batch_size_can_be_swept_and_complete_jobs_are_skipped(command, tiny) -> None:
    words = ["-m", *tiny, "samples.n=0", "trainer.max_steps=1", "data.batch_size=auto", "data.global_batch_size=4,8"]
    status, out, err = command("train", [*words, "hydra.sweep.dir=sweep"])
    assert status == 0, out + err
    assert [json.loads(Path(f"sweep/{i}/run.json").read_text())["batch"]["images"] for i in (0, 1)] == [4, 8]
    assert "| data.global_batch_size |" in Path("sweep/compare.md").read_text()
    status, out, err = command("train", [*words, "hydra.sweep.dir=sweep"])
    assert out.count("is already complete") == 2


def test_random_draws_do_not_depend_on_how_a_step_is_divided() -> None:
    def drawn(index: torch.Tensor, part: int, parts: int, rank: int, devices: int) -> list[Any]:
        clock = Clock(epoch=3, total=9, accumulate=parts, together=parts)
        trainer = SimpleNamespace(world_size=devices)
        module = SimpleNamespace(
            settings=SimpleNamespace(seed=0), device=torch.device("cpu"), clock=clock, global_rank=rank, trainer=trainer
        )
        number = 2 * parts + part  # the batch's number, in the epoch's third step
        streams = Diffusion.streams(module, Batch(torch.zeros(len(index)), index, index > 0, 1, number))  # type: ignore[arg-type]
        return [streams.uniform(), streams.normal(2), streams.stratified(), torch.full((len(index),), streams.shared())]

    index = torch.tensor([5, 3, 8, 1, 0, 9, 2, 7])
    quarters = [drawn(index[4 * p + 2 * r :][:2], p, 2, r, 2) for p in (0, 1) for r in (0, 1)]
    for whole, parts in zip(drawn(index, 0, 1, 0, 1), zip(*quarters, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts))
