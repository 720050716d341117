"""`diffusion --help` lists the commands; `--help GROUP` explains the choices of a group."""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from diffusion.__main__ import BESIDE, NAMES, main
from diffusion.base.files import PACKAGE, code_version
from diffusion.cli.completion import candidates
from diffusion.config import messages as helps
from diffusion.config.choices import groups
from diffusion.config.schema import Train


@pytest.mark.parametrize("group", groups())
def test_the_help_of_every_group_lists_its_choices(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    helps.print_help("train", Train, "", ["--help", group])
    out = capsys.readouterr().out
    assert all(f"{group}={choice}" in out for choice in helps.choices(group))


def test_every_name_that_the_help_lists_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    helps.print_help("train", Train, "", ["--help"])
    listed = re.findall(r"^  ([\w.@]+)=", capsys.readouterr().out, re.MULTILINE)
    assert {"data.root", "optimizer.lr", "weighting@objective.weighting", "checkpoint.keep"} <= {*listed}
    for name in [*listed, "launcher", "hydra/sweeper"]:
        helps.print_help("train", Train, "", ["--help", name])


def test_the_table_of_commands_is_complete(capsys, monkeypatch) -> None:
    assert {*NAMES} == {"train", *BESIDE, *(file.stem for file in (PACKAGE / "cli").glob("[!_]*.py"))}
    monkeypatch.setattr(sys, "argv", ["diffusion"])
    main()
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in NAMES)
    monkeypatch.setattr(sys, "argv", ["diffusion", "--version"])
    main()
    assert capsys.readouterr().out == f"{code_version()}\n"


def test_the_list_of_commands_ends_quietly_when_its_pipe_is_closed() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-u", "-m", "diffusion"], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_doctor_names_a_package_that_is_too_old_and_the_command_for_an_extra(command, monkeypatch) -> None:
    versions = {"lightning": "1.9", "hydra-core": "1.3.2"}
    monkeypatch.setattr("diffusion.cli.doctor.version", lambda name: versions.get(name) or missing(name))
    status, out, err = command("doctor", [])
    assert status == 2
    assert re.search(r"bad +lightning +1.9, needed: ", out)
    assert re.search(r"note +extra studio .*pip install -e '.*\[studio\]'", out)
    assert "not usable: " in err
    assert "hydra-core" not in err


def missing(name: str) -> str:
    raise PackageNotFoundError(name)


def test_an_unknown_command_is_refused_with_the_nearest(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["diffusion", "trian"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "trian: no such command (did you mean train?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    {
        "diffusion ": [*NAMES],
        "diffusion study ": ["sampler", "guidance", "floor"],
        "diffusion train model=unet_s": ["model=unet_small"],
        "diffusion train -m schedule=vp,sub": ["schedule=vp,sub_vp"],
        "diffusion train weighting@objective.weighting=ed": ["weighting@objective.weighting=edm"],
        "diffusion train model=edm2_xs model.cha": ["model.channels="],
        "diffusion train checkp": ["checkpoint."],
        "diffusion train --help lab": [],
        "diffusion train data.root=": [],
        "diffusion train ckpt=": ["ckpt=last", "ckpt=auto", "ckpt=outputs/a/1"],
        "diffusion sample ckpt=": ["ckpt=last", "ckpt=demo", "ckpt=super", "ckpt=outputs/a/1"],
        "diffusion train ckpt=elsewhere/": [],
        "diffusion status ": [],
    }.items(),
)
def test_completion_lists_the_words_that_fit_and_none_for_files(line, words, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/a/1/checkpoints").mkdir(parents=True)
    (tmp_path / "outputs/a/samples").mkdir()
    for file in ("1/run.json", "samples/config.yaml"):
        (tmp_path / "outputs/a" / file).touch()
    assert candidates(line) == words
