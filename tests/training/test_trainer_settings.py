"""The user's Trainer settings: callbacks, loggers, a time limit; every argument works or is rejected by name."""

import inspect
import json
import re
from types import SimpleNamespace
from typing import ClassVar

import pytest
import yaml
from forked import Train
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from diffusion.checkpoint import storage
from diffusion.config import schema
from diffusion.config.choices import conf_dir
from diffusion.errors import UserError
from diffusion.runs.metrics import read_metrics
from diffusion.training.callbacks import Throughput
from diffusion.training.checks import check_trainer
from tests.support.composing import settings

RUN = ["hydra.run.dir=run", "ckpt=auto"]
STOPPING = ["callbacks=early_stopping", "callbacks.early_stopping.min_delta=1000", "trainer.max_epochs=4"]


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_every_lightning_trainer_argument_is_a_setting_or_refused():
    shown = yaml.safe_load((conf_dir() / "trainer/default.yaml").read_text()).keys() | schema.Trainer.model_fields
    refused = {key.removeprefix("trainer.") for key in schema.INSTEAD}
    arguments = inspect.signature(Trainer).parameters.keys()
    assert shown - {"_target_"} | refused == arguments
    assert not shown & refused


@pytest.mark.parametrize("key", schema.INSTEAD)
def test_trainer_arguments_set_by_the_run_are_refused_by_name(key):
    with pytest.raises(UserError, match=re.escape(schema.INSTEAD[key])):
        check_trainer(settings([f"+{key}=false"]).trainer)


@pytest.mark.parametrize("plus", ["", "+"])
def test_trainer_logger_is_refused_with_and_without_a_plus(command, tiny, plus):
    status, _, err = command("train", [*tiny, f"{plus}trainer.logger=false"])
    assert status == 2
    assert "error: trainer.logger: it is set by the run itself; set logger=csv" in err


def test_trainer_settings_for_clipping_profiling_and_debugging_work(command, tiny, tmp_path):
    words = ["trainer.limit_val_batches=1", "data.eval_batch_size=4", "trainer.gradient_clip_val=0.1"]
    words += ["trainer.gradient_clip_algorithm=value", "trainer.profiler=simple", "trainer.detect_anomaly=true"]
    status, out, err = command("train", [*tiny, *words, "trainer.max_steps=2", "hydra.run.dir=run"])
    assert status == 0, out + err
    assert "val/mse" in read_metrics(tmp_path / "run/metrics.csv")
    assert "Profiler Report" in out


def test_several_machines_without_torchrun_are_refused(command, tiny):
    status, _, err = command("train", [*tiny, "trainer.num_nodes=2"])
    assert status == 2
    assert "trainer.num_nodes=2: to use several machines, start torchrun on each" in err


def test_several_callbacks_and_loggers_accept_new_settings_on_resume(command, tiny, tmp_path):
    words = ["callbacks=[throughput,gradient_norm,memory,early_stopping]", "logger=[wandb,tensorboard]"]
    status, out, err = command("train", [*tiny, *words, "trainer.max_steps=6", "hydra.run.dir=run"])
    assert status == 0, out + err
    metrics = read_metrics(tmp_path / "run/metrics.csv")
    for name in ("train/images_per_second", "train/steps_per_second", "train/gradient_norm", "memory/peak_gb"):
        assert len(metrics[name].step) == 6
        assert (metrics[name].value > 0).all()
    assert ((metrics["memory/peak_gb"].value > 0.1) & (metrics["memory/peak_gb"].value < 100)).all()
    names = [path.name for path in (tmp_path / "run").rglob("*")]
    assert any("tfevents" in name for name in names)
    assert any("offline-run" in name for name in names)
    words = ["callbacks.early_stopping.patience=7", "logger.wandb.project=other", "trainer.max_steps=8"]
    status, out, err = command("train", [*RUN, *words])
    assert status == 0, out + err
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["callbacks"].keys() == {"throughput", "gradient_norm", "memory", "early_stopping"}
    assert config["callbacks"]["early_stopping"]["patience"] == 7
    assert config["logger"]["wandb"]["project"] == "other"
    assert record(tmp_path / "run")["steps"] == 8


def test_the_rate_is_that_of_the_interval_without_validations(monkeypatch):
    now, rates = [0.0], []
    monkeypatch.setattr("diffusion.training.callbacks.time", SimpleNamespace(monotonic=lambda: now[0]))
    module = SimpleNamespace(log_dict=lambda values, batch_size: rates.append(tuple(values.values())))
    trainer = SimpleNamespace(world_size=1, global_step=0, log_every_n_steps=2)
    callback, batch = Throughput(), SimpleNamespace(index=[0, 1, 2, 3])
    for step in range(1, 7):
        callback.on_train_batch_start(trainer)
        now[0] += step
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, batch, 0)
        if step == 3:  # in the middle of an interval
            callback.on_validation_start(trainer, module)
            now[0] += 100
            callback.on_validation_end(trainer, module)
    assert rates == [(8 / 3, 2 / 3), (4 / 4, 1 / 4), (8 / 11, 2 / 11)]  # images and steps per second


def test_callbacks_do_not_change_the_weights(command, tiny, tmp_path):
    for name, words in {"plain": [], "watched": ["callbacks=[throughput,gradient_norm,memory,early_stopping]"]}.items():
        status, out, err = command("train", [*tiny, *words, "trainer.max_steps=4", f"hydra.run.dir={name}"])
        assert status == 0, out + err
    plain, watched = (storage.load(tmp_path / f"{name}/checkpoints/last.ckpt") for name in ("plain", "watched"))
    for weights in ("state_dict", "current_model_state"):
        assert all((value == watched[weights][key]).all() for key, value in plain[weights].items())


@pytest.mark.parametrize("present", [True, False])
def test_device_stats_are_logged_and_refused_without_psutil(command, tiny, tmp_path, monkeypatch, present):
    monkeypatch.setattr("lightning.pytorch.callbacks.device_stats_monitor._PSUTIL_AVAILABLE", present)
    words = ["callbacks=device_stats", "trainer.max_steps=2", "samples.n=0", "hydra.run.dir=run"]
    status, out, err = command("train", [*tiny, *words])
    if present:
        assert status == 0, out + err
        load = read_metrics(tmp_path / "run/metrics.csv")["DeviceStats.on_train_batch_end/cpu_percent"]
        assert len(load.step) == 2
    else:
        assert (status, err.count("\n")) == (2, 1), out + err
        assert "callbacks=device_stats: on a CPU it needs psutil" in err


def test_a_run_with_the_old_single_logger_config_resumes(command, tiny, tmp_path):
    words = ["logger=tensorboard", "trainer.max_steps=2", "hydra.run.dir=run"]
    assert command("train", [*tiny, *words])[0] == 0
    file = tmp_path / "run/config.yaml"
    config = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(config | {"logger": config["logger"]["tensorboard"]}))
    status, out, err = command("train", [*RUN, "trainer.max_steps=4"])
    assert status == 0, out + err


def test_a_misspelt_choice_in_a_list_is_named(command, tiny):
    status, _, err = command("train", [*tiny, "callbacks=[memory,early_stoping]"])
    assert status == 2
    assert "callbacks=early_stoping: unknown choice (did you mean early_stopping?)" in err


def test_an_untrusted_callback_in_a_saved_configuration_is_refused(command, tiny, tmp_path):
    status, out, err = command("train", [*tiny, "callbacks=memory", "trainer.max_steps=2", "hydra.run.dir=run"])
    assert status == 0, out + err
    file = tmp_path / "run/config.yaml"
    file.write_text(file.read_text().replace("diffusion.training.callbacks.Memory", "doubles.signalling"))
    status, out, err = command("train", [*RUN, "trainer.max_steps=4"])
    assert status == 2, out + err
    assert "its callbacks names doubles.signalling" in err


@pytest.fixture
def stopped(command, tiny, tmp_path):
    """A run that does not improve after its first validation, with 6 steps between validations."""
    words = [*STOPPING, "callbacks.early_stopping.patience=1", "hydra.run.dir=run"]
    status, out, err = command("train", [*tiny, *words])
    assert status == 0, out + err
    return tmp_path / "run"


def test_an_early_stopped_run_is_complete_and_records_the_reason(command, stopped):
    now = record(stopped)
    assert (now["state"], now["steps"], now["total_steps"]) == ("complete", 12, 24)
    assert "ended at step 12 of 24. Monitored metric val/mse did not improve" in now["reason"]
    assert now["reason"] in (stopped / "README.md").read_text()
    assert storage.load(stopped / "checkpoints/last.ckpt")["global_step"] == 12
    assert "is already complete" in command("train", RUN)[1]
    status, out, err = command("train", [*RUN, "callbacks.early_stopping.patience=2"])
    assert status == 0, out + err
    assert (record(stopped)["steps"], record(stopped)["state"]) == (18, "complete")


def test_resuming_an_early_stopped_run_trains_no_further(command, stopped):
    (stopped / "run.json").write_text(json.dumps(record(stopped) | {"state": "interrupted"}))
    status, out, err = command("train", RUN)
    assert status == 0, out + err
    now = record(stopped)
    assert (now["state"], now["steps"]) == ("complete", 12)
    assert "ended at step 12 of 24" in now["reason"]


def test_a_run_that_reached_its_threshold_stays_stopped_when_it_is_resumed(command, tiny, tmp_path):
    words = ["callbacks=early_stopping", "trainer.max_epochs=3", "hydra.run.dir=run"]
    reached = "callbacks.early_stopping.stopping_threshold=1000"  # from above
    status, out, err = command("train", [*tiny, *words, reached])
    assert status == 0, out + err
    for more, steps in (([reached], 6), (["callbacks.early_stopping.stopping_threshold=-1"], 18)):
        (tmp_path / "run/run.json").write_text(json.dumps(record(tmp_path / "run") | {"state": "interrupted"}))
        status, out, err = command("train", [*RUN, *more])
        assert status == 0, out + err
        now = record(tmp_path / "run")
        assert (now["state"], now["steps"]) == ("complete", steps)
        assert ("Stopping threshold reached" in now.get("reason", "")) == (steps == 6)


def test_early_stopping_on_an_unknown_metric_is_refused(command, tiny):
    status, _, err = command("train", [*tiny, *STOPPING, "callbacks.early_stopping.monitor=val/mes"])
    assert status == 2
    assert "early stopping with monitor=val/mes: validation logs no such metric; it logs fit/mse, " in err


class Ends(Callback):
    """A user's callback that ends training at the fourth step."""

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step == 4


def test_a_custom_callback_can_end_a_run(command, tiny, tmp_path):
    words = ["+callbacks.mine._target_=tests.training.test_trainer_settings.Ends", "hydra.run.dir=run"]
    status, out, err = command("train", [*tiny, *words])
    assert status == 0, out + err
    assert record(tmp_path / "run")["reason"] == "ended at step 4 of 12. A callback asked to stop."
    assert storage.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 4


class Reads(Callback):
    """A user's callback that reads the loss after each step."""

    read: ClassVar[list[tuple[float, ...]]] = []

    def on_train_batch_end(self, trainer, module, outputs, *args):
        known = (trainer.callback_metrics, trainer.logged_metrics)
        self.read.append((float(outputs["loss"]), *(float(metrics["train/loss"]) for metrics in known)))


def test_a_custom_callback_can_read_the_loss_of_every_step(command, tiny):
    words = ["+callbacks.mine._target_=tests.training.test_trainer_settings.Reads", "trainer.log_every_n_steps=5"]
    Reads.read.clear()
    status, out, err = command("train", [*tiny, *words])
    assert status == 0, out + err
    assert len({loss for loss, *_ in Reads.read}) == 12
    assert all(loss == callback == logged for loss, callback, logged in Reads.read)


@pytest.mark.reliability  # torch cannot fork after use of another device, as in test_device
def test_a_run_that_reaches_max_time_is_interrupted_and_can_resume(command, tiny, tmp_path):
    words = [*tiny, "trainer.max_epochs=100000", "trainer.max_time=00:00:00:01", f"hydra.run.dir={tmp_path}/run"]
    job = Train(words, tmp_path / "log")
    job.process.join()
    log = (tmp_path / "log").read_text()
    assert job.process.exitcode == 142, log
    now, step = record(tmp_path / "run"), storage.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"]
    assert (now["state"], now["reason"]) == ("interrupted", "SIGALRM: trainer.max_time reached")
    assert now["steps"] == step > 0
    assert "ckpt=auto" in log
    assert "trainer.max_time=00:00:00:01 saves and stops the run before that" in log
    status, out, err = command("train", [*RUN, "trainer.max_time=00:01:00:00", f"trainer.max_steps={step + 2}"])
    assert status == 0, out + err
    assert record(tmp_path / "run")["state"] == "complete"
    assert record(tmp_path / "run")["steps"] == step + 2
