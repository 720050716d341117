"""Mistakes in parts of one's own end in one line before training; unusual parts can be loaded again."""

import pytest
import torch
import yaml
from mistakes import Features

from diffusion.metric.reference import features_of, reference_statistics

MISTAKES = {
    "a tuple": ({"model": "Pair"}, "the network returned a tuple; expected a tensor"),
    "one image of a batch": ({"model": "OneImage"}, "expected the same size"),
    "a number": ({"model": "Number"}, "expected the same size"),
    "a wrong argument inside": ({"model": "Inner"}, "model: cannot build mistakes.Inner"),
    "an average without a class": ({"ema": ""}, "ema: it names no class"),
    "not a module": ({"model": "Function"}, "model: mistakes.Function gives a Function; expected a Module"),
    "no class": ({"model": ""}, "model: it names no class; its yaml file needs a line _target_"),
    "a directive for Hydra": ({"model": "Plain; _convert_=all"}, "model: a checkpoint can only rebuild a part"),
    "a state that no checkpoint can hold": ({"model": "State"}, "model: its state _extra_state is not a tensor"),
    "float images": ({"data": "Images; how=float"}, "data: the images of train are float32; `load` returns uint8"),
    "too few names": ({"data": "Images; how=names"}, "data: train has 12 images, but 3 names"),
    "arrays": ({"data": "Images; how=arrays"}, "data: `load` returned no Split of train with a tensor"),
    "no split": ({"data": "Images; how=tensors"}, "data: `load` returned no Split of train"),
    "nothing": ({"data": "Images; how=none"}, "data: `load` returned no Split of train"),
    "no test images": ({"data": "Images; how=missing"}, "data: `load` returned no Split of test"),
    "a fixed size": (
        {"data": "FixedSize"},
        "give them to FixedSize as arguments, and to its yaml file as resolution: 8",
    ),
    "features without a hash": ({"features": "Unfrozen"}, "features: Unfrozen has no weights_hash"),
    "fewer features": ({"features": "Wide"}, "features: Wide turns 2 images into (2, 3); expected (2, 5)"),
    "features of other images": ({"features": "Fixed"}, "features: Fixed fails on two images"),
    "a weight per column": (
        {"weighting": "column; _partial_=true"},
        "objective: the loss of 2 images has the shape (2, 2)",
    ),
}
LABELLED = {"unused labels": "Unlabelled; classes=0", "a table without a last row": "ShortTable; classes=0"}


@pytest.fixture
def choose(tmp_path, tiny):
    """Overrides for a run with the class of `mistakes` for each group: {"model": "CLASS; KEY=VALUE"}."""

    def words(chosen: dict[str, str]) -> list[str]:
        size = {"resolution": 8, "channels": 3, "batch_size": 4, "eval_batch_size": 8}
        for group, text in chosen.items():
            name, *settings = text.split("; ")
            node = size if group == "data" and name != "FixedSize" else {}
            node |= {"_target_": f"mistakes.{name}"} if name else {"width": 3}
            node |= {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in settings)}
            (tmp_path / "conf" / group).mkdir(parents=True)
            (tmp_path / "conf" / group / "mine.yaml").write_text(yaml.safe_dump(node))
        kept = [word for word in tiny if word.partition(".")[0].partition("=")[0] not in chosen]
        at = {"weighting": "weighting@objective.weighting"}
        places = [f"{at.get(group, group)}=mine" for group in chosen]
        more = ["samples.n=0", "trainer.max_steps=1", "sampler.steps=2", "hydra.run.dir=run"]
        return ["--config-dir", "conf", *kept, *places, *more, *(["score.n=4"] if "features" in chosen else [])]

    return words


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_in_an_own_part_is_one_line_before_training(command, choose, tmp_path, what):
    chosen, said = MISTAKES[what]
    status, out, err = command("train", choose(chosen))
    assert (status, err.count("\n")) == (2, 1), out + err
    assert said in err
    assert err.startswith(f"error: {said}") or not said.startswith(("features", "model", "data:", "ema"))
    assert not (tmp_path / "run/metrics.csv").exists()


def test_a_yaml_file_with_a_syntax_error_is_named(command, choose, tmp_path):
    words = choose({"model": "Plain"})
    (tmp_path / "conf/model/mine.yaml").write_text("_target_: mistakes.Plain\nwidth: [3\nother: 4\n")
    status, out, err = command("train", words)
    assert (status, err.count("\n")) == (2, 1), out + err
    assert err.startswith("error: not readable as yaml: ")
    assert 'conf/model/mine.yaml", line 3' in err


@pytest.mark.parametrize("what", LABELLED)
def test_a_network_that_cannot_use_labels_is_refused(command, choose, photos, tmp_path, what):
    rows = [f"{path.name},{i % 2}" for i, path in enumerate(sorted(photos.iterdir()))]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    words = [*choose({"model": LABELLED[what]}), "data.labels=labels.csv"]
    status, out, err = command("train", words)
    assert (status, err.count("\n")) == (2, 1), out + err
    assert ("Unlabelled.classes is None" in err) or ("index out of range" in err)


@pytest.mark.parametrize("model", ["Volumes", "Plain; activation={_target_: torch.tanh, _partial_: true}"])
def test_an_unusual_network_can_be_trained_and_sampled(command, choose, model):
    status, out, err = command("train", choose({"model": model}))
    assert status == 0, out + err
    status, out, err = command("sample", ["--config-dir", "conf", "ckpt=run", "n=2"])
    assert status == 0, out + err


def test_reference_statistics_are_computed_again_if_an_extractor_computes_something_else(monkeypatch):
    images = torch.randint(256, (8, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, kept = reference_statistics(images, Features(), name="val"), features_of(images, Features(), keep=True)
    monkeypatch.setattr(Features, "scale", 2.0)  # its code has changed; its name and weights have not
    second = reference_statistics(images, Features(), name="val")
    torch.testing.assert_close(second.mean, 2 * first.mean)
    torch.testing.assert_close(features_of(images, Features(), keep=True), 2 * kept)
