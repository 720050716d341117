"""The user's Trainer settings: callbacks, loggers, a time limit; every argument works or is rejected by name."""

import inspect
import json

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from diffusion.checkpoint import storage
from diffusion.config import schema
from diffusion.config.choices import conf_dir

RUN = ["hydra.run.dir=run", "ckpt=auto"]
STOPPING = ["callbacks=early_stopping", "callbacks.early_stopping.min_delta=1000", "trainer.max_epochs=4"]


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_the_settings_of_the_trainer_are_arguments_of_lightnings():
    shown = yaml.safe_load((conf_dir() / "trainer/default.yaml").read_text()).keys() | schema.Trainer.model_fields
    refused = {key.removeprefix("trainer.") for key in schema.INSTEAD}
    arguments = inspect.signature(Trainer).parameters.keys()
    assert shown - {"_target_"} | refused <= arguments
    assert not shown & refused


def test_an_early_stopped_run_is_complete_and_records_the_reason(ran, tiny, tmp_path):
    """It does not improve after its first validation, with 6 steps between validations."""
    ran("train", [*tiny, *STOPPING, "callbacks.early_stopping.patience=1", "hydra.run.dir=run"])
    now = record(tmp_path / "run")
    assert (now["state"], now["steps"], now["total_steps"]) == ("complete", 12, 24)
    assert "ended at step 12 of 24. Monitored metric val/mse did not improve" in now["reason"]
    assert storage.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 12
    assert "is already complete" in ran("train", RUN)


class Ends(Callback):
    """A user's callback that ends training at the fourth step."""

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step == 4


def test_a_custom_callback_can_end_a_run(ran, tiny, tmp_path):
    ran("train", [*tiny, "+callbacks.mine._target_=tests.training.test_trainer_settings.Ends", "hydra.run.dir=run"])
    assert record(tmp_path / "run")["reason"] == "ended at step 4 of 12. A callback asked to stop."
    assert storage.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 4
