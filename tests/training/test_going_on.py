"""Going on: with the recipe of the run, never with another one in silence, and never where nothing is left."""

import json

import pytest
import yaml

RUN = ["hydra.run.dir=run", "ckpt=auto"]


@pytest.fixture
def run(command, tiny, tmp_path):
    """A run of two steps of an own recipe, told to end there; its files."""
    words = [*tiny, "optimizer.lr=0.001", "lr_scheduler=warmup", "lr_scheduler.warmup=3", "samples.n=0"]
    status, out, err = command("train", [*words, "trainer.max_steps=2", "hydra.run.dir=run"])
    assert status == 0, out + err
    return tmp_path / "run"


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_a_run_goes_on_with_its_own_words(command, run):
    before = config(run)
    status, out, err = command("train", [*RUN, "trainer.max_steps=4"])
    assert status == 0, out + err
    said = out.replace("\n", " ")
    assert "with the run's own settings: data=folder" in said
    assert "optimizer.lr=0.001" in said
    assert "other settings" not in said
    after = config(run)
    assert (before["trainer"].pop("max_steps"), after["trainer"].pop("max_steps")) == (2, 4)
    assert (before.pop("ckpt"), after.pop("ckpt")) == (None, "auto")
    assert before == after
    assert json.loads((run / "run.json").read_text())["steps"] == 4
    status, out, err = command("train", [*RUN, "trainer.max_steps=6"])  # and again, from the words of both
    assert status == 0, out + err
    assert config(run)["optimizer"]["lr"] == 0.001


def test_what_is_complete_is_not_run_again(command, run):
    status, out, err = command("train", RUN)
    assert status == 0, out + err
    assert "run is complete already" in out
    assert "going on" not in out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("schedule.last=0.03", "schedule.last 0.02 → 0.03"),
        ("schedule=cosine", "schedule._target_ "),
        ("prediction=v", "prediction._target_ "),
        ("optimizer=sgd", "optimizer._target_ torch.optim.AdamW → torch.optim.SGD"),
        ("ema=none", "ema._target_ diffusion.training.ema.EMA → null"),
    ],
)
@pytest.mark.parametrize("place", ["own", "new"])
def test_another_diffusion_or_state_is_refused_and_the_run_is_as_it_was(command, tiny, run, word, said, place):
    kept, record = (run / "config.yaml").read_text(), (run / "run.json").read_text()
    words = [word, "trainer.max_steps=4"]
    words += RUN if place == "own" else [*tiny, "ckpt=run/checkpoints/last.ckpt"]
    status, out, err = command("train", words)
    assert status == 2, out + err
    line = err.splitlines()[-1]
    assert line.startswith("error: ckpt=")
    assert f"it was trained otherwise: {said}" in line
    assert line.count("→") == 1
    assert ((run / "config.yaml").read_text(), (run / "run.json").read_text()) == (kept, record)
    status, out, err = command("train", [*RUN, "trainer.max_steps=3"])
    assert status == 0, out + err
    assert config(run)["schedule"]["_target_"] == yaml.safe_load(kept)["schedule"]["_target_"]


def test_another_recipe_is_said(command, run):
    words = ["optimizer.lr=0.01", "data.batch_size=8", "lr_scheduler=constant", "trainer.max_steps=4"]
    status, out, err = command("train", [*RUN, *words])
    assert status == 0, out + err
    said = out.replace("\n", " ")
    assert (
        "other settings than the checkpoint's: data.batch_size 4 → 8, optimizer.lr 0.001 → 0.01, lr_scheduler._target_"
        in said
    )
    assert config(run)["lr_scheduler"].keys() == {"_target_", "_partial_"}


@pytest.mark.parametrize("steps", [1, 2])
def test_nothing_left_to_train_is_refused(command, tiny, run, steps):
    words = ["ckpt=run/checkpoints/last.ckpt", f"trainer.max_steps={steps}", "hydra.run.dir=other"]
    status, out, err = command("train", [*tiny, *words])
    assert status == 2, out + err
    assert f"it is of step 2, and the run ends at step {steps}" in err
    assert "trainer.max_epochs" in err


def test_validations_that_never_come_are_refused(command, tiny):
    status, out, err = command("train", [*tiny, "trainer.val_check_interval=7"])
    assert status == 2, out + err
    assert "trainer.val_check_interval=7: an epoch has 6 batches" in err


def test_a_sampler_that_the_network_does_not_fit_is_refused_before_training(command, tiny):
    words = ["sampler=ancestral", "sampler.steps=4", "variance@sampler.variance=learned_range"]
    status, out, err = command("train", [*tiny, *words])
    assert status == 2, out + err
    assert "learned" in err
    assert "Traceback" not in err
    assert "step" not in out
