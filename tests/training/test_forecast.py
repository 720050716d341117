"""The forecast of a run's work, compared with its actual work."""

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from composing import settings, train
from torch import nn

from diffusion.evaluation.drawing import Drawing
from diffusion.model.unet import UNet
from diffusion.process.denoiser import Denoiser
from diffusion.process.prediction import Eps
from diffusion.process.schedule import linear
from diffusion.training import forecast
from diffusion.training.clock import Clock
from diffusion.training.spent import Spent

WHOLE = (
    "samples.n=4", "samples.every_n_epochs=1", "score.n=8", "score.every_n_epochs=2", "features=lite0",
    "score.baselines=[untrained,noise,real]", "trainer.accumulate_grad_batches=2", "validation.draws=2",
)  # fmt: skip
PICTURES = ("ema=none", "samples.n=6", "samples.every_n_epochs=2", "trainer.max_steps=7", "data.eval_batch_size=3")


@pytest.mark.parametrize("words", [WHOLE, PICTURES, [*PICTURES, "trainer.limit_val_batches=2"], ["samples.n=0"]])
def test_the_forecast_equals_the_actual_network_evaluations(tiny, tmp_path, monkeypatch, words):
    done: Counter[str] = Counter()

    def seen(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, UNet) and not output.is_meta:  # meta tensors: the cost of its parts, in report.html
            done["training" if torch.is_grad_enabled() else "rest"] += len(output)

    planned: list[list[forecast.Part]] = []

    def plan(self: forecast.Plan, step: int) -> list[forecast.Part]:
        done.clear()  # the check of the parts comes before the run
        planned.append(parts(self, step))
        return planned[-1]

    parts = forecast.Plan.parts
    monkeypatch.setattr(forecast.Plan, "parts", plan)
    monkeypatch.setattr(forecast, "seconds_per_evaluation", lambda *_: 1.0)
    monkeypatch.setattr(Drawing, "print_cost", lambda *_: None)
    hook = torch.nn.modules.module.register_module_forward_hook(seen)
    try:
        train([*tiny, "least_interval=1", *words], tmp_path)
    finally:
        hook.remove()
    (found,) = planned
    work = {part.name: part for part in found}
    assert work.pop("training").training == forecast.STEP * done["training"]
    assert sum(part.training + part.sampling for part in work.values()) == done["rest"]
    assert {"pictures", "scores", "last scores"} <= work.keys() or words is not WHOLE


@pytest.mark.parametrize(("minutes", "stopped"), [(30, False), (5, True)])
def test_the_time_limit_is_compared_with_the_time_until_the_last_step(
    tiny, tmp_path, monkeypatch, capsys, minutes, stopped
):
    """At 25 s per evaluation: 700 s of training and validation, and 25,000 s of samples after them."""
    monkeypatch.setattr(forecast, "seconds_per_evaluation", lambda *_: 100.0)
    words = [
        "ema=none",
        "validation.draws=1",
        "samples.n=50",
        "sampler.steps=20",
        "trainer.max_steps=1",
        f"trainer.max_time=00:00:{minutes:02d}:00",
    ]
    train([*tiny, *words], tmp_path)
    assert ("saves and stops the run before that" in " ".join(capsys.readouterr().out.split())) == stopped


def test_the_forecast_of_a_resumed_run_counts_the_remaining_work(command, tiny, tmp_path):
    words = [*tiny, "samples.n=2", "samples.every_n_epochs=1", "least_interval=1", "hydra.run.dir=run"]
    assert command("train", [*words, "trainer.max_epochs=2"])[0] == 0
    status, out, err = command("train", [*words, "trainer.max_epochs=3", "ckpt=auto"])
    assert status == 0, out + err
    said = out[out.index("forecast: about") :].splitlines()[1:4]
    assert [" ".join(line.split()[:3]) for line in said] == ["training 6 steps", "validation 1 time,", "pictures 2 of"]


@pytest.mark.parametrize(
    ("choice", "n", "baselines"),
    [("default", 7, ["real"]), ("off", 0, ["real"]), ("quick", 256, ["floor"])],
)
def test_a_score_choice_overrides_the_experiment(tmp_path, monkeypatch, choice, n, baselines):
    from diffusion.config.choices import searching

    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nscore: {n: 7, baselines: [real]}\n"
    (tmp_path / "experiment/mine.yaml").write_text(text)
    with searching([tmp_path]):
        score = settings(["experiment=mine", f"score={choice}"]).score
    assert (score.n, score.baselines) == (n, baselines)
    with searching([tmp_path]):
        assert settings(["experiment=mine", f"score={choice}", "score.n=9"]).score.n == 9


class Sized(nn.Module):
    """Notes the batch sizes that it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.sizes = nn.Parameter(torch.zeros(())), []

    def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        return x * self.weight

    @property
    def device(self) -> torch.device:
        return self.weight.device


def test_the_forecast_compiles_nothing_and_extracts_features_in_small_batches():
    """Compiling takes minutes, and features of a whole training batch may not fit into a GPU."""
    network, extractor, compiled = Sized(), Sized(), []
    network.compile(backend=lambda graph, inputs: compiled.append(graph) or graph.forward)
    plan = SimpleNamespace(
        data=SimpleNamespace(shape=(3, 8, 8)),
        scorer=SimpleNamespace(extractor=extractor),
        in_precision=lambda same: same,
    )
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(forward_context=nullcontext))
    denoiser = Denoiser(network, linear(), Eps())
    costs = forecast.Forecast(Clock(1, 1), plan, None, Spent()).costs(trainer, denoiser, torch.device("cpu"), 64)  # type: ignore[arg-type]
    assert min(costs) > 0
    assert compiled == []
    assert (set(network.sizes), set(extractor.sizes)) == ({64}, {8})
