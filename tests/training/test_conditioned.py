"""Runs with a condition: what they train, draw and refuse, and the commands that use their models."""

import numpy as np
import pytest
import torch
from composing import train
from PIL import Image

import diffusion
from diffusion.base.pixels import tiles
from diffusion.checkpoint.restore import restore
from diffusion.data import Split
from diffusion.data.conditions import Lowres
from diffusion.kinds.pixels import Pixels
from diffusion.process.denoiser import Denoiser
from diffusion.runs.folder import read_scores
from diffusion.sampling.given import Given

MORE = ["condition=lowres", "trainer.max_steps=4", "samples.n=4", "optimizer.lr=1e-2", "label_dropout=0.3"]


@pytest.fixture(scope="module")
def small(tmp_path_factory, tiny):
    """The folder of a run of four steps on 8×8 images and their 4×4 pictures."""
    folder = tmp_path_factory.mktemp("small") / "run"
    train([*tiny, *MORE], folder)
    return folder


def drawn(folder):
    return torch.from_numpy(np.load(folder / "images.npz")["arr_0"])


def test_a_run_learns_with_and_without_the_condition_of_its_images(tiny, tmp_path, monkeypatch):
    """What is dropped is dropped as a whole, from about the share of `label_dropout` of the images."""
    seen, evaluated = [], Denoiser.evaluated

    def noted(self, x, t, label, **given):
        if self.network.training and torch.is_grad_enabled():
            seen.append(given)
        return evaluated(self, x, t, label, **given)

    monkeypatch.setattr(Denoiser, "evaluated", noted)
    train([*tiny, *MORE, "samples.n=0", "trainer.max_steps=12"], tmp_path)
    pictures, vectors = (torch.cat([given[name] for given in seen]) for name in ("picture", "vector"))
    assert pictures.shape == (48, 4, 8, 8)
    kept = vectors[:, 1] == 1
    assert 0.5 < kept.float().mean() < 0.9
    assert (pictures[~kept] == 0).all()
    assert (vectors[~kept] == 0).all()
    assert (pictures[kept, 3] == 1).all()
    assert vectors[kept, 0].unique().numel() == kept.sum()  # levels of noise
    assert (tmp_path / "checkpoints/last.ckpt").is_file()


def test_a_checkpoint_knows_its_condition(small):
    restored = restore(small / "checkpoints/last.ckpt")
    assert restored.shape == (3, 8, 8)
    facts = restored.facts
    assert (facts.arguments, facts.picture, facts.vector) == ({"in_channels": 7, "out_channels": 3, "augment": 2}, 4, 2)
    assert restored.facts.condition.shapes == {"lowres": [3, 4, 4]}


def test_a_sample_depends_on_its_own_condition_alone(small, ran, tmp_path):
    """Sample i is drawn from held-out image i mod 8, whose picture is shown beside it."""
    for name, words in {"many": ["n=10", "batch_size=3"], "few": ["n=3"]}.items():
        ran("sample", [f"ckpt={small}", *words, f"hydra.run.dir={name}"])
    many, few = drawn(tmp_path / "many"), drawn(tmp_path / "few")
    assert torch.equal(many[:3], few)
    shown = tiles(Image.open(tmp_path / "many/conditions.png"))
    assert (shown[8:] == shown[:2]).all()
    assert len(np.unique(shown[:8].reshape(8, -1), axis=0)) == 8
    model = diffusion.load(small, device="cpu")
    assert torch.equal(model.sample(3, progress=False).movedim(1, -1), few)
    held_out = model.drawing().given
    pooled = held_out.split.images[:3].float().unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5))
    saved = torch.from_numpy(shown[:3]).movedim(3, 1)[..., :2, :2]
    assert shown.shape[1:3] == (8 * (shown.shape[1] // 8), 8 * (shown.shape[1] // 8))
    assert (saved[:, :, 0, 0].float() - pooled[:, :, 0, 0]).abs().max() < 1
    assert (tiles(Image.open(small / "samples/conditions.png"))[:, 0, 0] == shown[:4, 0, 0]).all()


def test_a_user_gives_pictures_that_decide_what_is_drawn(small, ran, tmp_path):
    (tmp_path / "mine").mkdir()
    for i, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (9, 7), colour).save(tmp_path / f"mine/{i}.png")
    for name, given in {"all": "mine", "one": "mine/1.png"}.items():
        ran("sample", [f"ckpt={small}", "n=4", f"given={given}", "guidance=cfg", f"hydra.run.dir={name}"])
    every, one = drawn(tmp_path / "all"), drawn(tmp_path / "one")
    assert torch.equal(every[1], one[1])
    assert not torch.equal(every[0], one[0])
    assert tiles(Image.open(tmp_path / "all/conditions.png"))[:, 0, 0].tolist() == [
        [255, 0, 0],
        [0, 128, 0],
        [0, 0, 255],
        [255, 0, 0],
    ]


@pytest.mark.parametrize("more", [[], ["mask"], ["strength=1"]])
def test_an_edit_has_the_condition_of_its_picture(small, ran, tmp_path, more):
    """At strength 1, nothing else of the picture is left."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    mask = Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 8, 4))
    mask.save(tmp_path / "mask.png")
    more = [word.replace("mask", "mask=mask.png") for word in more]
    for name, given in {"own": [], "given": ["given=red.png"]}.items():
        words = [f"ckpt={small}", "image=red.png", "n=2", *more, *given, f"hydra.run.dir={name}"]
        ran("edit", words)
    assert torch.equal(drawn(tmp_path / "own"), drawn(tmp_path / "given"))


def test_an_interpolation_keeps_one_condition(small, ran, tmp_path):
    ran("edit", [f"ckpt={small}", "interpolate=[0,1]", "n=3", "hydra.run.dir=between"])
    assert torch.equal(drawn(tmp_path / "between")[:1].movedim(3, 1), diffusion.load(small).sample(1, progress=False))


def test_scores_and_studies_draw_with_the_conditions_of_their_split(small, ran, tmp_path):
    scored = ["baselines=[]", "n=8", "split=test", "device=cpu"]
    ran("evaluate", [f"ckpt={small}", *scored, "bits=2", "likelihood.steps=3", "hydra.run.dir=e"])
    assert {score.source["given"] for score in read_scores(tmp_path / "e") if score.what == "samples"} == {"test"}
    words = [f"ckpt={small}", *scored, "samplers=[ddim]", "nfe=[2]", "hydra.run.dir=s"]
    ran("study", ["sampler", *words])


def test_numbers_are_given_in_their_own_units(tiny, tmp_path, command):
    table = tmp_path / "t.csv"
    table.write_text("file,age\n" + "".join(f"{i:02d}.png,{100 + i}\n" for i in range(40)))
    train([*tiny, *MORE, "condition=columns", f"condition.table={table}", "condition.columns=[age]"], tmp_path / "run")
    restored = restore(tmp_path / "run/checkpoints/last.ckpt")
    figures = restored.facts.condition.figures
    assert 100 < figures["mean"][0] < 140
    table.unlink()
    exported = tmp_path / "model.safetensors"
    assert command("export", [str(tmp_path / "run"), str(exported)])[0] == 0
    for ckpt in (tmp_path / "run", exported):
        model = diffusion.load(ckpt, device="cpu")
        drawing = model.drawing(given=[[139], [100]])
        vector = drawing.inputs(range(3), torch.device("cpu"))["vector"]
        expected = [(age - figures["mean"][0]) / figures["std"][0] for age in (139, 100, 139)]
        assert vector[:, 0].tolist() == pytest.approx(expected, rel=1e-4)
        assert vector[:, 1].tolist() == [1, 1, 1]
    (line,) = command("sample", [f"ckpt={exported}", "given=[1,2]"])[2].splitlines()
    assert line.endswith("given=[1.0,2.0]: the condition numbers is 1 number, for each image or for all of them")


def test_other_processes_are_sent_the_held_out_images_alone(tmp_path):
    """Not the whole file that they are mapped from."""
    whole = Split(torch.randint(0, 256, (1000, 3, 8, 8), dtype=torch.uint8), [str(i) for i in range(1000)])
    given = Given(Lowres(), (3, 8, 8), Pixels(), "val", whole.take(torch.arange(10, 20)))
    torch.save(given, tmp_path / "given.pt")
    assert (tmp_path / "given.pt").stat().st_size < 10_000
    sent = torch.load(tmp_path / "given.pt", weights_only=False)
    assert torch.equal(sent.rows(range(12))["lowres"], given.rows(range(12))["lowres"])
    assert sent.key == given.key


REFUSED = {
    "a smaller picture": ("sample", ["given=tiny.png"], "tiny.png: 3x3 pixels, smaller than 4x4; the condition"),
    "numbers": ("sample", ["given=[1]"], "the condition lowres is pictures of 4x4 pixels"),
    "no file": ("sample", ["given=none.png"], "given=none.png: no such file or folder"),
    "another factor": ("sample", ["condition.factor=4"], "the model was trained with {'lowres': [3, 4, 4]}"),
    "a changed condition": ("train", ["condition.factor=4"], "other settings, such as condition.factor 2 → 4"),
    "no condition": ("train", ["condition=none"], "another network or other settings"),
    "a floor at the end": ("train", ["ckpt=null", "validation.floor=true"], "floor: given a condition"),
    "times from a floor": (
        "train", ["ckpt=null", "timesteps@objective.timesteps=from_floor"], "only squared errors without a condition"
    ),
    "the floor of a run": ("study", [], "floor: given a condition"),
    "a page": ("export", ["--format", "web"], "condition: a page draws without one"),
    "diffusers": ("export", ["--format", "diffusers"], "condition: diffusers' U-Nets have none"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(small, tiny, refused, tmp_path, name):
    kind, words, said = REFUSED[name]
    Image.new("RGB", (3, 3)).save(tmp_path / "tiny.png")
    own = {
        "train": [*tiny, *MORE, f"ckpt={small}"],
        "sample": [f"ckpt={small}"],
        "study": ["floor", f"ckpt={small}"],
        "export": [str(small)],
    }
    assert said in refused(kind, [*own[kind], *words])


def test_images_that_the_condition_does_not_fit_are_refused(tiny, refused):
    for words, said in (
        (["condition=lowres", "condition.factor=3"], "condition.factor=3: it does not divide images of 8×8 pixels"),
        (["condition=pairs", "condition.root=.", "crops=random"], "set augmentation=none crops=none"),
        (["condition=lowres", "condition.level=0.9"], "condition.level=0.9: expected at most condition.noise=0.5"),
        (["condition=lowres", "guidance=cfg", "label_dropout=0"], "cannot estimate without a label or condition"),
    ):
        assert said in refused("train", [*tiny, *words, "samples.n=0"])


def test_another_model_has_no_condition(two_steps, command):
    (line,) = command("sample", [f"ckpt={two_steps}", "given=[1]"])[2].splitlines()
    assert "given: the model was trained without a condition" in line
