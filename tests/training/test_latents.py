"""Runs in the latents of a random autoencoder of diffusers (factor 2, four channels), and what uses their models."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from composing import train
from networks import saved
from PIL import Image

import diffusion
from diffusion.base.files import cache_dir
from diffusion.base.pixels import to_unit
from diffusion.checkpoint.restore import restore
from diffusion.config.choices import choice
from diffusion.data import Folder, Split
from diffusion.errors import UserError
from diffusion.findings.scores import BASELINES
from diffusion.kinds.encoder import VAE, Encoder
from diffusion.kinds.latents import Latents, statistics
from diffusion.kinds.pixels import read_picture
from diffusion.process.denoiser import clip
from diffusion.process.sampler import DDIM
from diffusion.randomness import Streams
from diffusion.report.tables import score_table
from diffusion.runs.folder import read_scores
from diffusion.sampling.edits import Filling, observation_of

NOT_OF_LATENTS = "augmentation=edm", "crops=random", "condition=lowres", "validation.floor=true"


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("vae") / "own")


@pytest.fixture(scope="module")
def words(tiny, vae):
    """The settings of a run on 16×16 images, which are 8×8 in the process."""
    return [*tiny, "data.resolution=16", "encoder=vae", f"encoder.path={vae}"]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents") / "run"
    more = ["trainer.max_steps=4", "samples.n=4", "score.n=4", "score.baselines=[noise,real]"]
    train([*words, *more, "threshold@sampler.threshold=clip"], folder)
    return folder


@pytest.fixture
def data(photos, vae):
    """Images with their latents: 24 of the training, also mirrored."""
    made = Folder(root=str(photos), resolution=16, val=8, test=8)
    made.kind = Latents(VAE(str(vae)), made.shape)
    made.setup()
    made.kind.attach(made, torch.device("cpu"), lambda: None)
    return made


def test_latents_of_the_cache_are_those_of_the_encoder(data, vae):
    """Of images and of mirrored images, to the rounding of half precision."""
    train_images = torch.randint(256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    rows = data.kind.cached(Split(train_images, [""] * 20), "train", True, torch.device("cpu"))
    for mirrored in (False, True):
        images = train_images.flip(-1) if mirrored else train_images
        moments = rows[:, int(mirrored)]
        expected = data.kind.inside(images)
        assert (data.kind.standardised(moments[:, :4].float()) - expected).abs().max() < 5e-3
    assert data.splits["val"].latents.shape == (8, 1, 8, 8, 8)
    assert data.splits["train"].take(torch.tensor([3, 1])).latents.shape == (2, 2, 8, 8, 8)


def test_latents_have_the_deviation_one_half(data):
    moments = data.splits["train"].latents.flatten(0, 1)
    z = torch.cat([data.kind.drawn(moments, Streams.of(48, "some", i)) for i in range(20)])
    assert torch.allclose(z.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.01)
    assert torch.allclose(z.std(dim=(0, 2, 3)), torch.full((4,), 0.5), atol=0.01)
    assert torch.allclose(
        data.kind.drawn(moments[:, :4], Streams.of(48, "x")), data.kind.standardised(moments[:, :4].float())
    )


def test_decoding_undoes_the_standardisation(data):
    """What the encoder itself makes of its latents."""
    images = data.splits["val"].images
    encoder = data.kind.encoder
    z = encoder.moments(images.float() / 127.5 - 1)[:, :4]
    expected = (encoder.decode(z).clamp(-1, 1) + 1) * 127.5
    again = data.kind.outside(data.kind.inside(images))
    assert (again.float() - expected.detach()).abs().max() <= 1
    assert len(data.kind.outside(torch.empty(0, 4, 8, 8))) == 0  # of a process without a share


def test_an_interrupted_encoding_goes_on(data, photos, vae, monkeypatch):
    """After the batches that are complete; the result is the same."""
    from diffusion.kinds import latents

    monkeypatch.setattr(latents, "BATCH", 5)
    split, expected = data.splits["train"], data.splits["train"].latents.clone()
    (file,) = [each for each in cache_dir("latents").glob("*.bin") if each.stat().st_size == expected.nbytes]
    content = file.read_bytes()
    file.unlink()
    file.with_suffix(".part").write_bytes(b"\1" * (2 * 5 * len(content) // 24) + content[:7])  # two batches and a bit
    again = data.kind.cached(split, "train", True, torch.device("cpu"))
    assert (again[:10].view(torch.uint8) == 1).all()
    assert torch.allclose(again[10:].float(), expected[10:].float(), atol=1e-2)
    assert not file.with_suffix(".part").exists()
    file.unlink()


def test_a_run_learns_and_draws_latents_and_writes_pixels(run):
    restored = restore(run / "checkpoints/last.ckpt")
    assert (restored.shape, restored.facts.arguments["in_channels"]) == ((3, 16, 16), 4)
    assert restored.kind.space(restored.shape) == (4, 8, 8)
    model = diffusion.load(run, device="cpu")
    own = DDIM(2, threshold=clip)
    assert model.drawing(own).sampler.threshold is None
    assert own.threshold is clip
    assert model.sample(3, progress=False).shape == (3, 3, 16, 16)


def test_each_epoch_draws_other_latents_and_validation_the_same(words, tmp_path, monkeypatch):
    from diffusion.training.module import Diffusion

    seen = {True: [], False: []}
    shown = Diffusion.shown

    def noted(self, batch, *more):
        if not self.trainer.sanity_checking:
            seen[self.trainer.training].append((batch.index, batch.flip, batch.image))
        return shown(self, batch, *more)

    monkeypatch.setattr(Diffusion, "shown", noted)
    train([*words, "samples.n=0", "data.flip=false", "trainer.max_epochs=2"], tmp_path)
    first, second = (
        torch.cat([image for _, _, image in part])[torch.cat([index for index, _, _ in part]).argsort()]
        for part in (seen[True][:6], seen[True][6:])
    )
    assert not torch.equal(first, second)
    assert (first - second).abs().mean() < 2  # of the same images
    a, b = (torch.cat([image for _, _, image in part]) for part in (seen[False][:1], seen[False][2:3]))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("data.resolution=15", "multiples of 2"),
        ("data.channels=1", "does not fit images with 1 channel"),
        ("encoder.path=nowhere", "encoder.path=nowhere: no such folder"),
        *((change, "latents have no condition, augmentation") for change in NOT_OF_LATENTS),
    ],
)
def test_what_does_not_fit_is_refused_before_images_are_read(words, change, line, monkeypatch, tmp_path):
    monkeypatch.setattr(Folder, "load", lambda self: pytest.fail("read"))
    with pytest.raises(UserError, match=line):
        train([*words, change], tmp_path)


def test_another_encoder_than_that_of_the_model_is_refused(run, tmp_path, vae):
    other = saved(tmp_path / "other", seed=1)
    model = restore(run / "checkpoints/last.ckpt")
    model.config["encoder"]["path"] = str(other)
    with pytest.raises(UserError, match="encoder: the model was trained with"):
        _ = model.kind
    with pytest.raises(UserError, match="encoder: it does not fit images with 3 channels"):
        Latents(VAE(str(saved(tmp_path / "grey", in_channels=1, out_channels=1))), (3, 16, 16))
    with pytest.raises(UserError, match="the mean and deviation of its latents: 'mean'"):
        Latents(VAE(str(vae)), (3, 16, 16), {"key": VAE(str(vae)).key})
    halves = Encoder()
    halves.encode, halves.decode = lambda x: F.avg_pool2d(x, 2), lambda z: z
    with pytest.raises(UserError, match=r"becomes \(1, 3, 64, 64\) when it is encoded and decoded"):
        Latents(halves, (3, 16, 16))
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    for folder, said in ((tmp_path, "it is a UNet2DModel"), (run, "expected an autoencoder of diffusers")):
        with pytest.raises(UserError, match=said):
            VAE(str(folder))


def test_diffusers_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match="encoder needs diffusers: "):
        VAE("some")


def test_statistics_of_known_moments():
    """Half of the latents are 1 and half 3, with the variance e^0 = 1: the mean 2, the variance 1 + 1."""
    z = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2, 1).expand(1200, 1, 1, 2, 3)
    mean, deviation = statistics(torch.cat([z, torch.zeros_like(z)], dim=2).half(), 1)
    assert np.allclose([mean[0], deviation[0]], [2, 2**0.5])


def test_the_ceiling_is_the_score_of_decoded_real_images(run):
    """Beside `real`, of the same images, in the scores and the table of the page."""
    scores = {(score.what, score.metric): score for score in read_scores(run)}
    ceiling, real = (scores[what, "fd_lite0"] for what in ("ceiling", "real"))
    assert (ceiling.n, ceiling.reference) == (real.n, real.reference)
    assert ceiling.value != real.value
    assert BASELINES["ceiling"] in score_table([*scores.values()]).head


def test_variants_of_a_picture_are_near_what_the_encoder_keeps_of_it(run, photos):
    model = diffusion.load(run, device="cpu")
    picture = read_picture(photos / "03.png", model.shape)
    kept = model.restored.kind.ceiling(picture[None], torch.device("cpu"))
    near, far = (
        (model.edit(photos / "03.png", strength, n=2, steps=50, progress=False).float() - kept.float()).abs().mean()
        for strength in (0.02, 1.0)
    )
    assert near < far


def test_a_hole_is_filled_without_looking_at_it(run, photos, monkeypatch):
    """Pixels outside of it are the picture's own, and what is in it changes no known latent."""
    model = diffusion.load(run, device="cpu")
    picture = np.asarray(Image.open(photos / "05.png").resize((16, 16)))
    mask = np.zeros((16, 16), bool)
    mask[5:10, 4:9] = True
    other = picture.copy()
    other[mask] = 255 - other[mask]
    made = [
        Filling(each, mask, choice("inpainting", "repaint")).edited(model.drawing("ddim")) for each in (picture, other)
    ]
    observed = [each.drawing.sampler.observation for each in made]
    assert torch.equal(observed[0].y, observed[1].y)
    known = observed[0].operator.known
    assert (~known).nonzero().amin(dim=0).tolist() == [2, 2]
    assert (~known).nonzero().amax(dim=0).tolist() == [4, 4]
    (pasted,) = made[0].paste(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    assert (np.asarray(pasted)[~mask] == picture[~mask]).all()
    assert model.inpaint(picture, mask, n=1, steps=2, progress=False).shape == (1, 3, 16, 16)


def test_what_needs_pixels_in_the_process_is_refused(run, words, photos, tmp_path, refused):
    model = diffusion.load(run, device="cpu")
    with pytest.raises(UserError, match="split Gibbs needs an operator that is linear"):
        model.solve(photos / "05.png", "blur", "split_gibbs")
    with pytest.raises(UserError, match="web: a page cannot decode latents"):
        model.export(tmp_path / "page.html", "web")
    assert "0 validation images" in refused("train", [*words, "data.val=0"])
    assert "bits: of latents" in refused("evaluate", [f"ckpt={run}", "n=4", "bits=2"])
    assert "floor: it is not computed for latents" in refused("study", ["floor", f"ckpt={run}"])


def test_an_operator_is_applied_to_decoded_latents(run, photos):
    """Methods use its derivative J, also of an autoencoder with attention: ⟨J v, u⟩ = ⟨v, Jᵀu⟩, and J v is a slope."""
    model, how = diffusion.load(run, device="cpu"), choice("operator", "downsampling operator.factor=8")
    values, picture = model.restored.kind, read_picture(photos / "05.png", model.shape)
    seen, _ = observation_of(how, photos / "05.png", model.shape, 0.0, False, 0, values)
    assert torch.equal(seen.y, F.avg_pool2d(to_unit(picture[None]), 8))
    x, v, u = (
        Streams.of(2, name).normal(*size) for name, size in (("x", (4, 8, 8)), ("v", (4, 8, 8)), ("u", (3, 2, 2)))
    )
    value, near = seen.near(x)
    assert torch.allclose(value, F.avg_pool2d(values.decoded(x), 8), atol=1e-5)
    moved = near.operator(v)
    slope = (seen.operator(x + 0.01 * v) - seen.operator(x - 0.01 * v)) / 0.02
    assert (moved - slope).norm() < 0.02 * slope.norm()
    assert torch.allclose((moved * u).sum(), (v * near.adjoint(u)).sum(), rtol=1e-3, atol=1e-4)
    assert model.solve(photos / "05.png", "blur", n=1, steps=2, progress=False).shape == (1, 3, 16, 16)


def test_exported_models_draw_the_same(run, tmp_path, vae):
    """The folder of diffusers has its encoder with it; a safetensors file names that of the run."""
    model = diffusion.load(run, device="cpu")
    expected = model.sample(2, progress=False)
    for name in ("safetensors", "diffusers"):
        place = tmp_path / f"model.{name}"
        model.export(place, name)
        assert torch.equal(diffusion.load(place, device="cpu").sample(2, progress=False), expected)
    assert diffusion.load(tmp_path / "model.diffusers").restored.kind.encoder.key == VAE(str(vae)).key
    assert (tmp_path / "model.diffusers/vae/config.json").is_file()


def test_fine_tuning_keeps_the_statistics_of_the_latents(run, words, tmp_path):
    figures = restore(run / "checkpoints/last.ckpt").facts.figures
    train([*words, f"init={run}", "data.limit=8", "trainer.max_steps=1", "samples.n=0"], tmp_path / "tuned")
    assert restore(tmp_path / "tuned/checkpoints/last.ckpt").facts.figures == figures


def test_a_resumed_run_equals_the_uninterrupted_one(words, tmp_path):
    """Also the latents drawn in each epoch."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = [*words, "samples.n=0"]
    train([*more, "trainer.max_steps=9"], whole)
    train([*more, "trainer.max_steps=5"], parts)
    train([*more, "trainer.max_steps=9", "ckpt=auto"], parts)
    a, b = (restore(folder / "checkpoints/last.ckpt").denoiser.network.state_dict() for folder in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)
