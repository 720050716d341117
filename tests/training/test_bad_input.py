"""A user's mistake causes one line that names it and how to fix it, and a non-zero exit, before any training."""

import os
import shlex

import pytest
import torch
import yaml

from diffusion.data import ImageData

CASES = {
    "unknown split": (
        ["score.n=8", "score.split=tset", "features=lite0"],
        ["split=tset", "did you mean test", "train, val, test"],
    ),
    "unknown setting": (["optimiser.lr=1"], ["optimiser.lr", "optimizer.lr"]),
    "unknown choice": (["schedule=linaer"], ["schedule=linaer", "did you mean linear", "cosine"]),
    "misspelt key": (["data.bach_size=2"], ["data.bach_size", "data.batch_size"]),
    "missing folder": (["data.root=/nowhere/photos"], ["/nowhere/photos"]),
    "too few for a batch": (["data.batch_size=100"], ["24", "100", "data.batch_size"]),
    "indivisible size": (["data.resolution=9"], ["data.resolution=9", "multiple of 2", "data.resolution=8"]),
    "beta above one": (
        ["schedule=sigmoid", "schedule.largest=0.999999", "schedule.tau=0.001"],
        ["β_", "outside (0, 1)"],
    ),
    "angles of a schedule of its own": (["validation.times=angles"], ["validation.times=angles", "remove it"]),
    "more steps than the table": (["sampler.steps=1001"], ["1001", "1000"]),
    "missing checkpoint": (["ckpt=nothing.ckpt"], ["nothing.ckpt", "no such file"]),
    "nothing to resume": (["ckpt=last"], ["ckpt=last", "no finished run"]),
    "inception by name": (["features=inception", "score.n=8"], ["nception", "features=lite0"]),
    "a learned variance without its channels": (["objective=hybrid"], ["learned_range", "output channels"]),
    "a table's times on a continuous schedule": (["schedule=vp"], ["timesteps@objective.timesteps=uniform"]),
    "a variance for an ODE's sampler": (["variance@sampler.variance=learned_range"], ["sampler=ancestral"]),
    "a setting of another choice": (["+sampler.churn=1"], ["DDIM has no churn", "sampler=heun"]),
    "eps at zero terminal SNR": (["schedule=zero_snr"], ["prediction=v"]),
    "too few images to score against": (
        ["score.n=8", "score.split=test", "data.test=3", "features=lite0"],
        ["split=test", "3 images", "at least 4", "data.test"],
    ),
    "too few samples to score": (["score.n=3", "features=lite0"], ["n=3", "at least 4"]),
    "an unknown baseline": (["score.n=8", "score.baselines=[nose]", "features=lite0"], ["nose", "noise, real"]),
    "a metric that does not exist": (
        ["score.n=8", "+metrics.own={_target_: diffusion.metric.distances.Nothing}", "features=lite0"],
        ["metrics.own", "Nothing"],
    ),
    "wrong kind of value": (["optimizer.lr=fast"], ["optimizer"]),
}


def error_line(err: str) -> str:
    """The one line that reports the error; only progress bars may precede it."""
    *before, line = err.strip().splitlines()
    assert line.startswith("error: "), err
    assert all("━" in other for other in before), err
    return line


@pytest.mark.parametrize("case", CASES)
def test_user_mistakes_give_a_one_line_error_with_a_fix(command, tiny, tmp_path, monkeypatch, case):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no weights here"))
    overrides, words = CASES[case]
    status, out, err = command("train", [*tiny, *overrides, "name=bad"])
    assert status == 2, out + err
    line = error_line(err)
    for word in words:
        assert word in line
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("metrics.csv"))


SETTINGS = {
    "name=../x": "a name inside the folder outputs",
    "name=/x": "a name inside the folder outputs",
    "seed=abc": "a whole number from 0 to 4294967295; seed=0 is the default",
    "seed=-1": "a whole number from 0",
    "seed=1.5": "a whole number",
    "seed=true": "a whole number",
    "ckpt=3": "text or null",
    "compile=maybe": "true or false",
    "channels_last=perhaps": "true or false",
    "matmul_precision=foo": "highest, high, medium; matmul_precision=high is the default",
    "validation.draws=abc": "a whole number of at least 1",
    "validation.draws=0": "at least 1",
    "samples.n=-3": "at least 0",
    "samples.every_n_epochs=abc": "a whole number of at least 1 or null",
    "samples.every_n_epochs=-1": "at least 1 or null",
    "score.batch_size=0": "at least 1",
    "score.baselines=noise": "a list, each noise, real, floor, untrained",
    "score.audit=pixels": "a list, each pixels, features; score.audit=[] is the default",
    "score.split=tset": "train, val, test",
    "trainer.accumulate_grad_batches=0": "at least 1",
    "trainer.check_val_every_n_epoch=0": "at least 1 or null",
    "trainer.max_steps=0": "a whole number of at least 1 or -1",
    "trainer.max_steps=abc": "a whole number of at least 1 or -1; trainer.max_steps=-1 is the default",
    "trainer.max_epochs=0": "at least 1",
    "trainer.devices={}": "trainer.devices",
    "name=null": "a name inside the folder outputs",
    "validation=null": "validation=null: it has nested settings",
    "guard=3": "guard=3: it has nested settings",
    "model.blocks=0": "a whole number of at least 1",
    "schedule=null": "a choice is required; schedule is one of cosine, ",
    "~schedule": "schedule=null: a choice is required; schedule is one of cosine, ",
    "grid@sampler.grid=karras sampler.grid.rho=abc": "sampler.grid.rho=abc: expected a number",
    "threshold@sampler.threshold=null": "one of clip, dynamic; if it is optional, sampler.threshold=null",
    "model=null": "a choice is required; model is one of dit_b_2",
    "schedule.first=abc": "a number above 0 and below 1; --help schedule lists values that work",
    "schedule.last=1.5": "a number above 0 and below 1",
    "schedule.steps=1e3": "a whole number",
    "sampler.steps=ten": "sampler.steps=ten: expected a whole number",
    "sampler.grid=karras": "sampler.grid=karras: a choice is required, with its place: grid@sampler.grid=karras",
    "optimizer.lr=abc": "a number",
    "optimizer.lr=nan": "a number",
    "optimizer.betas=[0.9]": "a list of 2 values, each a number",
    "ema.decay=abc": "a number",
    "ema.decay=2": "from 0 to 1",
    "ema.decay=-1": "from 0 to 1",
    "lr_scheduler.warmup=abc": "a whole number",
    "lr_scheduler.warmup=-1": "a whole number of at least 0",
    "model.channels=32": "a list, each a whole number",
    "model.attention=[0,1]": "a list, each true or false",
    "data.limit=abc": "a whole number of at least 1 or null",
    "data.seed=abc": "a whole number",
    "data.flip=no": "true or false",
    "data.num_workers=-1": "a whole number of at least 0",
    "guard.action=halt": "stop, skip",
    "guard.spikes=0": "at least 1",
    "guard.spikes=few": "at least 1",
    "checkpoint.keep=0": "a whole number of at least 1",
    "checkpoint.keep=all": "a whole number of at least 1",
    "checkpoint.finished=none": "all, best, weights",
    "trainer.max_epochs=-1": "both unlimited: set one of them",
    "checkpoint.every_n_steps=0": "at least 1",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_invalid_settings_are_refused_before_any_image_is_read(command, tiny, monkeypatch, setting):
    monkeypatch.setattr(ImageData, "prepare_data", lambda self: pytest.fail("images were read"))
    words = ["lr_scheduler=warmup", setting] if setting.startswith("lr_") else setting.split()
    status, out, err = command("train", [*tiny, *words])
    assert status == 2, out + err
    assert setting.split()[-1].partition(".")[0].removeprefix("~") in error_line(err)
    assert SETTINGS[setting] in err


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("train", ["data=folder"], "data.root is not set; pass it on the command line: data.root=…"),
        ("sample", ["n=4"], "ckpt is not set; expected a run's folder, a checkpoint, or last"),
        ("edit", ["image=a.png"], "ckpt is not set; expected a run's folder"),
        ("study", ["sampler"], "ckpt is not set; expected a run's folder"),
    ],
)
def test_a_setting_that_must_be_set_is_named_with_its_whole_key(command, name, words, said):
    status, _, err = command(name, words)
    assert status == 2
    assert error_line(err).startswith(f"error: {said}")


def test_an_empty_image_folder_is_refused(command, tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = command("train", [*tiny, f"data.root={tmp_path}/empty", "name=bad"])
    assert status == 2
    assert "empty" in error_line(err)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_requesting_a_missing_gpu_is_refused(command, tiny):
    status, _, err = command("train", [*tiny, "trainer.accelerator=gpu", "name=bad"])
    assert status == 2
    assert "trainer.accelerator=auto" in error_line(err)


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/proc/self"), reason="needs an unwritable folder")
def test_an_unwritable_output_folder_is_refused(command, tiny):
    status, _, err = command("train", [*tiny, "hydra.run.dir=/proc/self/run"])
    assert status == 2
    assert "hydra.run.dir" in error_line(err)


@pytest.mark.parametrize("content", [b"not a checkpoint", b""])
@pytest.mark.parametrize("name", ["train", "sample"])
def test_a_damaged_checkpoint_is_refused(command, tiny, tmp_path, content, name):
    (tmp_path / "x.ckpt").write_bytes(content)
    status, _, err = command(name, [*(tiny if name == "train" else []), "ckpt=x.ckpt"])
    assert status == 2
    assert "x.ckpt" in error_line(err)


def test_a_checkpoint_of_another_program_is_refused(command, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
    status, _, err = command("sample", ["ckpt=x.ckpt"])
    assert status == 2
    assert "not a checkpoint of diffusion.train" in error_line(err)


def test_a_checkpoint_whose_config_names_foreign_code_is_refused(command, tmp_path):
    config = (
        "model: {_target_: os.system, command: touch touched}\nschedule: {}\nprediction: {}\ndata: {resolution: 8}\n"
    )
    torch.save({"state_dict": {}, "config": config, "global_step": 1, "epoch": 0}, tmp_path / "x.ckpt")
    status, _, err = command("sample", ["ckpt=x.ckpt"])
    assert status == 2
    assert "os.system" in error_line(err)
    assert not (tmp_path / "touched").exists()


def test_sample_without_a_checkpoint_is_refused(command):
    status, _, err = command("sample", [])
    assert status == 2
    assert "ckpt" in error_line(err)


def test_evaluate_without_a_checkpoint_or_images_is_refused(command):
    status, _, err = command("evaluate", [])
    assert status == 2
    assert "images=FOLDER" in error_line(err)


def test_a_checkpoint_of_another_network_is_refused_with_one_line(command, tiny):
    few = [*tiny, "trainer.max_steps=1", "samples.n=0"]
    assert command("train", [*few, "hydra.run.dir=one"])[0] == 0
    status, _, err = command(
        "train", [*few, "hydra.run.dir=two", "model.channels=[8,24]", "ckpt=one/checkpoints/last.ckpt"]
    )
    assert status == 2
    (line,) = err.splitlines()
    assert "ckpt=one/checkpoints/last.ckpt: it was saved from a different network" in line
    assert "denoiser.network." in line
    assert "in model" in line


UNQUOTED = {
    "data.root=/a/run (1)": """'data.root="/a/run (1)"'""",
    "data.root=it's": """'data.root="it'"'"'s"'""",
    'data.root=a"b{': r"""'data.root="a\"b{"'""",
    "data.root=a=b": """'data.root="a=b"'""",
    "data.root=a,b": """'data.root="a,b"'""",
}


@pytest.mark.parametrize("word", UNQUOTED)
def test_errors_show_working_quotes_for_values_that_need_them(command, word):
    status, _, err = command("train", ["data=folder", word, "--cfg", "job"])
    assert status == 2
    assert error_line(err).startswith(f"error: {word}: ")
    assert UNQUOTED[word] in err
    (quoted,) = shlex.split(UNQUOTED[word])  # as a shell passes it on
    status, out, err = command("train", ["data=folder", quoted, "--cfg", "job"])
    assert status == 0, err
    assert yaml.safe_load(out)["data"]["root"] == word.partition("=")[2]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.root=/home/rené/mes photos", "/home/rené/mes photos"),
        ('data.root="/home/rené"', "/home/rené"),
        ("data.labels=写真.csv", "写真.csv"),
        ("data.resolution=[ été, [8,hiver] ]", ["été", [8, "hiver"]]),
    ],
)
def test_values_need_no_quotes_in_any_language(command, word, value):
    status, out, err = command("train", ["data=folder", word, "--cfg", "job"])
    assert status == 0, err
    assert yaml.safe_load(out)["data"][word.partition("=")[0].removeprefix("data.")] == value


def test_a_tilde_in_a_path_is_expanded(command, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    status, out, err = command("train", ["data=folder", "data.root=~/photos", "--cfg", "job"])
    assert status == 0, err
    assert yaml.safe_load(out)["data"]["root"] == "/home/someone/photos"


def test_an_override_without_a_value_is_refused(command):
    status, _, err = command("train", ["data"])
    assert status == 2
    assert error_line(err) == "error: data: expected KEY=VALUE, here data=…"
