"""Weights as the authors of ADM, DiT, SiT and JiT publish them: our networks compute the same with them."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from authors_networks import DiT, JiT, UNetModel
from networks import filled, saved
from safetensors.torch import save_file

from diffusion.base.pixels import to_unit
from diffusion.checkpoint.restore import read, restore
from diffusion.config.build import make
from diffusion.config.choices import choice, choices, searching
from diffusion.data.encoder import VAE
from diffusion.doors.authors import Weights, recognized
from diffusion.errors import UserError
from diffusion.training.resume import start_from

ADM = """
_target_: diffusion.doors.authors.ADMWeights
recipe: [experiment=improved_ddpm, model=unet_adm, "model.channels=[32,64]", "model.attention=[false,true]",
         model.blocks=1, model.head_dim=16, data.resolution=16]
heads_first: {}
"""
JIT = """
_target_: diffusion.doors.authors.JiTWeights
recipe: [experiment=flow, prediction=x0, model=jit_tiny, model.width=48, model.heads=3, model.depth=2, model.context=4,
         model.context_from=1, model.image_time=true, data.resolution=16]
"""
DIT = """
_target_: diffusion.doors.authors.DiTWeights
recipe: [{}, model=dit_tiny, model.patch=2, model.width=64, model.heads=4, model.depth=2, model.in_channels=4,
         model.shift=0, encoder=vae, encoder.path=vae]
factor: 2
scale: 0.18215
named: {}
flow: {}
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of own choices; the published ones are not tried before `mine`, which would take a second."""
    monkeypatch.setattr("diffusion.doors.authors.choices", lambda group: ["mine"])
    (tmp_path / "conf/authors").mkdir(parents=True)
    return tmp_path / "conf"


def images() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def agree(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert theirs.std() > 0.01
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


@pytest.mark.parametrize(("new_order", "classes", "file"), [(True, 5, "weights.pt"), (False, 0, "weights.safetensors")])
def test_adm_computes_what_guided_diffusion_computes(new_order: bool, classes: int, file: str, conf: Path) -> None:
    (conf / "authors/mine.yaml").write_text(ADM.format(str(not new_order).lower()))
    theirs = filled(UNetModel(32, [1, 2], 1, [2], 16, classes, new_order))
    torch.save(theirs.state_dict(), conf / "weights.pt")
    save_file(theirs.state_dict(), conf / "weights.safetensors")
    with searching([conf]):
        model = restore(conf / file)
        network = make(model.model, "model")
        start_from(str(conf / file), network, model.config)
        with pytest.raises(UserError, match=r"has no training state; start from its weights: init="):
            read(conf / file, to_train=True)
    y, x, t = torch.tensor([4, 0]) if classes else None, images(), torch.tensor([0, 731])
    with torch.no_grad():
        expected = theirs(x, t, y)
        agree(model.denoiser.network(x, t.float(), y), expected)
        agree(network.eval()(x, t.float(), y), expected)
    assert (model.shape, len(model.labels), model.weights) == ((3, 16, 16), classes, "raw")


def test_jit_computes_what_its_code_computes_with_raw_and_averaged_weights(conf: Path) -> None:
    (conf / "authors/mine.yaml").write_text(JIT)
    raw, averaged = (filled(JiT(16, 4, 48, 2, 3, 5, 32, 4, 1), seed) for seed in (0, 1))
    states = {
        key: {f"net.{name}": value for name, value in net.state_dict().items()}
        for key, net in {"model": raw, "model_ema1": averaged, "model_ema2": raw}.items()
    }
    torch.save({**states, "optimizer": {}, "epoch": 7, "args": Namespace(img_size=16)}, conf / "checkpoint-last.pth")
    t, y = torch.tensor([0.1, 0.75]), torch.tensor([3, 5])  # 5: no class
    for weights, theirs in (("ema", averaged), ("raw", raw)):
        with searching([conf]):
            model = restore(conf / "checkpoint-last.pth", weights)
        with torch.no_grad():
            agree(model.denoiser.network(images(), 1000 * (1 - t) - 1, y), theirs(images(), t, y))
    assert len(model.labels) == 5


def test_dit_and_sit_compute_what_their_code_computes_in_its_latents(conf: Path) -> None:
    """SiT's time is the share of the image, and its velocity leads to it; their files are told apart by their names."""
    vae, theirs = saved(conf / "vae"), filled(DiT(8, 64, 2, 4, 5))
    t, y = torch.tensor([0.25, 0.75]), torch.tensor([3, 5])  # 5: no class
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    recipes = {"DiT": "experiment=improved_ddpm, model.out_channels=8", "SiT": "experiment=flow, model.out_channels=4"}
    for name, flow in (("DiT", False), ("SiT", True)):
        more = ", model.image_time=true" * flow
        (own := conf / name / "authors").mkdir(parents=True)
        (own / "mine.yaml").write_text(DIT.format(recipes[name] + more, name, str(flow).lower()))
        torch.save({"ema": theirs.state_dict(), "model": theirs.state_dict(), "opt": {}}, conf / f"{name}.pt")
        (conf / "else.pt").write_bytes((conf / f"{name}.pt").read_bytes())
        with searching([conf / name]):
            model = restore(conf / f"{name}.pt")
            with pytest.raises(UserError, match=f"mine: the name of its file has {name} in it"):
                read(conf / "else.pt")
        with torch.no_grad():
            label, time = (1000 * (1 - t) - 1, t) if flow else (1000 * t, 1000 * t)
            ours, expected = model.denoiser.network(x, label, y), theirs(x, time, y)
            agree(ours, -expected[:, :4] if flow else expected)
            z = VAE(str(vae)).moments(to_unit(pixels := torch.randint(256, (1, 3, 16, 16)).byte()))[:, :4]
        assert torch.allclose(model.kind.inside(pixels), 0.18215 * z, atol=1e-6)
        assert (model.shape, len(model.labels), model.config["objective"]["_target_"][-6:]) == (
            (3, 16, 16), 5, "Simple" if flow else "Hybrid"
        )  # fmt: skip


PUBLISHED = {
    "dit_xl_2": lambda: DiT(32, 1152, 28, 16, 1000),
    "sit_xl_2": lambda: DiT(32, 1152, 28, 16, 1000),
    "adm_64": lambda: UNetModel(192, [1, 2, 3, 4], 3, [2, 4, 8], 64, 1000, True),
    "adm_256": lambda: UNetModel(256, [1, 1, 2, 2, 4, 4], 2, [8, 16, 32], 64, 0, False),
    "jit_b_16": lambda: JiT(256, 16, 768, 12, 12, 1000, 128, 32, 4),
    "jit_l_16": lambda: JiT(256, 16, 1024, 24, 16, 1000, 128, 32, 8),
    "jit_h_16": lambda: JiT(256, 16, 1280, 32, 16, 1000, 256, 32, 10),
}


@pytest.mark.parametrize("name", choices("authors"))
def test_the_published_networks_are_recognized_by_their_shapes(name: str) -> None:
    with torch.device("meta"):
        theirs = PUBLISHED[name]()
    contents = recognized(theirs.state_dict(), "", Path(f"{name}.pt"))
    family = make(choice("authors", name), "authors", Weights)
    trained = sum(value.numel() for value in theirs.parameters() if value.requires_grad)
    trained -= 4 * 4 * 1153 * (name == "sit_xl_2")  # of unused outputs
    row = 0 if family.unlabelled or "label_emb.weight" not in theirs.state_dict() else 4 * 192  # for no class
    assert sum(value.numel() for value in contents["state_dict"].values()) == trained + row


def test_other_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    torch.save(UNetModel(32, [1, 2], 1, [2], 16, 0, False).state_dict(), tmp_path / "other.pt")
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "unknown.pt")
    (tmp_path / "edm.pkl").write_bytes(b"\x80\x04}")
    for file, said in {
        "other.pt": r"none of the networks in conf/authors \(adm_\d+: .* is .*, there .*CONF/authors",
        "unknown.pt": "not a model of `diffusion train`",
        "edm.pkl": "a pickle is a program",
    }.items():
        with pytest.raises(UserError, match=said):
            read(tmp_path / file)
