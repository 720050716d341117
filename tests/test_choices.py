"""Every choice of conf/ has valid types, can be built, and comes back from the configuration in a file."""

import pytest
import torch
import yaml
from torch import nn

from diffusion.config.build import (
    OPTIONAL_PARTS,
    PARTS,
    RENAMED,
    check_node,
    check_targets,
    make,
    plain_config,
    validated,
)
from diffusion.config.choices import choice, choices, groups
from diffusion.config.schema import Train
from tests.support.composing import settings

PRESETS = (
    "experiment",
    "results",
    "score",
    "trainer",
)  # settings of several groups, studies, and settings of their own
CHOICES = [(group, name) for group in groups() if group not in PRESETS for name in choices(group)]
SEVERAL = ("logger", "callbacks", "metrics")  # any number of their choices can be used
HEAVY = ("features", "model", "data", "guidance")  # they read or allocate something, or need a model: not called


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_has_valid_types_and_can_be_built(group, name, tmp_path):
    places = {"folder": "root", "arrays": "root", "archive": "path", "hub": "path"}
    place = places.get(name) if group == "data" else None
    set_on_the_command_line = {place: "x"} if place else {}
    if (group, name) == ("condition", "columns"):
        set_on_the_command_line = {"table": "x", "columns": ["y"]}
    if (group, name) == ("encoder", "vae"):
        pytest.importorskip("diffusers").AutoencoderKL().save_pretrained(tmp_path)
        set_on_the_command_line = {"path": str(tmp_path)}
    steps = ["+schedule.steps=1000"] if group in ("objective", "timesteps") else []
    node = choice(group, " ".join([name, "+seed=0", "+name=x", *steps]), **set_on_the_command_line)
    if group == "guidance":
        node = {key: value for key, value in node.items() if key not in ("ckpt", "weights", "step")}
    nodes = node if group in SEVERAL else {"": node}
    for key, each in nodes.items():
        if not each or each.get("_target_") is None:  # none
            continue
        check_node(each, group)
        made = make({**each, "_partial_": True} if group in (*HEAVY, *SEVERAL) else each, f"{group}.{key}")
        assert made is not None


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_is_the_same_in_a_checkpoint(name):
    needed = ["data.root=x"] if name == "measurements" else []
    chosen = settings([f"experiment={name}", "init=x", *needed])
    for group, node in chosen.model_dump().items():
        if group in groups() and group != "guidance":
            check_node(node, group)
    text = yaml.safe_dump(chosen.model_dump(mode="json"), sort_keys=False)
    read = plain_config(text, "here")
    for part in (*PARTS, *OPTIONAL_PARTS):
        check_targets(read[part], part, "here")
    assert validated(Train, read) == chosen
    plain = settings([])
    if (chosen.ema, chosen.optimizer) != (plain.ema, plain.optimizer):  # its settings of these do not stay behind
        assert settings([f"experiment={name}", "init=x", "ema=none", "optimizer=adamw", *needed]).ema is None


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_class_of_version_1_0_is_found_by_its_name_of_then(old, new):
    read = plain_config(yaml.safe_dump({"objective": {"_target_": "any", "objective": {"_target_": old}}}), "here")
    assert read["objective"]["objective"]["_target_"] == new
    assert type(make({"_target_": old}, "objective")).__name__ == new.rpartition(".")[2]


@pytest.mark.parametrize("name", choices("optimizer"))
def test_every_optimizer_and_rate_makes_steps(name):
    pytest.importorskip({"lion": "lion_pytorch", "soap": "pytorch_optimizer"}.get(name, "torch"))
    for rate in choices("lr_scheduler"):
        network = nn.Linear(3, 2)
        network.ends = ()
        built = make(choice("optimizer", name), "optimizer")
        more = {"network": network} if name == "muon" else {}
        optimizer = built(list(network.parameters()), **more)
        scheduler = make(choice("lr_scheduler", rate), "lr_scheduler")(optimizer, 1000)
        before = network.weight.clone()
        for _ in range(2):
            network(torch.ones(4, 3)).square().mean().backward()
            optimizer.step()
            scheduler.step()
        assert network.weight.isfinite().all()
        assert not torch.equal(network.weight, before)
        assert all(0 < group["lr"] <= choice("optimizer", name)["lr"] for group in optimizer.param_groups)
