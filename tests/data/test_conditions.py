"""Conditions: computed from images, or stored with them; what a network is given of them."""

import csv

import pytest
import torch
from PIL import Image, ImageOps

from diffusion.base.pixels import to_unit
from diffusion.data import Folder, Hub
from diffusion.data.conditions import Columns, Edges, Grey, Lowres, Mask, Pairs, inputs
from diffusion.errors import UserError
from diffusion.process.denoiser import denoiser_of
from diffusion.process.prediction import EDM, X0, V
from diffusion.process.schedule import VE, sigmoid
from diffusion.randomness import Streams


def test_the_small_picture_has_noise_of_the_level_that_the_network_is_told():
    """In training, levels are uniform up to `noise`, and the variance is preserved; drawing uses one level."""
    x0, condition = 3 + torch.randn(4000, 1, 4, 4), Lowres(noise=0.8, level=0.3)
    clean = condition(x0, {})
    torch.testing.assert_close(clean["lowres"][:, :, 0, 0], x0[:, :, :2, :2].mean(dim=(2, 3)))
    noisy = condition.noised(clean, Streams.of(4000, "x"), training=True)
    level = noisy["level"]
    assert level.shape == (4000, 1)
    assert level.mean() == pytest.approx(0.4, abs=0.02)
    assert level.max() == pytest.approx(0.8, abs=0.01)
    error = (noisy["lowres"] - (1 - level**2).sqrt()[..., None, None] * clean["lowres"]) / level[..., None, None]
    assert [error.mean(), error.std()] == pytest.approx([0, 1], abs=0.02)
    drawn = condition.noised(clean, Streams.of(4000, "x"))
    assert (drawn["level"] == 0.3).all()
    assert Lowres(noise=0.0).noised(clean, Streams.of(4000, "x")) is clean
    assert condition.widths((1, 4, 4)) == {"picture": 2, "vector": 2, "centred": True}


def test_masks_edges_and_grey():
    x0 = torch.full((2, 3, 64, 64), -0.8)
    x0[0, :, :20] = torch.tensor([0.2, 0.4, 0.9])[:, None, None]  # a sky above land
    mask = Mask()(x0, {})["mask"]
    expected = -torch.ones(64, 64)
    expected[:20] = 1
    assert (mask[0, 0] != expected).float().mean() <= 1 / 64
    assert (mask[1] == -1).all()  # of one colour
    edges = Edges()(x0, {})["edges"]
    assert (edges[0, 0, 19:21] == 1).all()
    assert (edges[0, 0, :19] == -1).all()
    assert (edges[1] == -1).all()
    assert Grey()(x0, {})["grey"][0, 0, 0, 0] == pytest.approx(0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.9)


def test_pictures_are_resized_and_what_is_dropped_differs_from_grey_and_from_the_mean():
    named = {"a": torch.zeros(2, 1, 2, 2), "b": torch.ones(2, 3, 8, 8), "c": torch.zeros(2, 2), "d": torch.ones(2, 1)}
    found = inputs(named, (4, 4), torch.tensor([True, False]))
    assert found["picture"][:, :, 1, 1].tolist() == [[0, 1, 1, 1, 1], [0, 0, 0, 0, 0]]
    assert found["vector"].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]


@pytest.fixture
def paired(tmp_path):
    """Ten photographs of 200×260 pixels, and their negatives under the same names with another ending."""
    generator = torch.Generator().manual_seed(0)
    for i in range(10):
        pixels = torch.randint(0, 256, (20, 26, 3), generator=generator, dtype=torch.uint8)
        photo = Image.fromarray(pixels.numpy()).resize((260, 200), Image.Resampling.BICUBIC)
        for folder, picture, ending in (("a/x", photo, "png"), ("b/x", ImageOps.invert(photo), "webp")):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / folder / f"{i}.{ending}", lossless=True, quality=0, method=0)
    return tmp_path


def loaded(folder, condition, **settings):
    data = Folder(root=folder / "a", **{"resolution": 32, "val": 2, "test": 2, **settings})
    data.condition = condition
    data.setup()
    return data


@pytest.mark.parametrize("tiles", [None, 5])
def test_a_pair_is_cropped_cut_and_mirrored_as_its_image(paired, tiles):
    data = loaded(paired, Pairs(paired / "b"), tiles=tiles)
    for split in data.splits.values():
        assert len(split) > 0
        error = split.stored["pair"].int() - (255 - split.images.int())
        assert error.abs().float().mean() < (3 if tiles else 0.1)
    index, flip = torch.tensor([2, 0]), torch.tensor([True, False])
    batch = data.on_after_batch_transfer(data.splits["train"][index, flip, 0, 0], 0)
    assert (to_unit(batch.stored["pair"]) + batch.image).abs().mean() < 0.05
    assert "condition" in data.keys


def test_a_missing_pair_and_one_of_another_size_are_refused(paired):
    with pytest.raises(UserError, match=r"condition.root=.*/c is not an existing folder"):
        loaded(paired, Pairs(paired / "c"))
    with pytest.raises(UserError, match=r"set condition.root=FOLDER"):
        loaded(paired, Pairs())
    Image.new("RGB", (130, 130)).save(paired / "b/x/3.webp")
    with pytest.raises(UserError, match=r"x/3.png: 130x130 pixels, but a tile of the image is .*size of the image"):
        loaded(paired, Pairs(paired / "b"), tiles=5)
    (paired / "b/x/3.webp").unlink()
    with pytest.raises(UserError, match=r"no picture for 'x/3.png' \(1 missing in all\)"):
        loaded(paired, Pairs(paired / "b"))


@pytest.mark.doors
def test_pairs_of_a_column_of_a_hub_set(paired):
    datasets, pyarrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {
        name: [{"bytes": file.read_bytes(), "path": None} for file in sorted((paired / folder).iterdir())]
        for name, folder in (("photo", "a/x"), ("negative", "b/x"))
    }
    kinds = datasets.Features({name: datasets.Image() for name in rows})
    parquet.write_table(pyarrow.table(rows, schema=kinds.arrow_schema), paired / "set.parquet")
    data = Hub(path=str(paired / "set.parquet"), image_column="photo", resolution=32, val=2, test=2)
    data.condition = Pairs(column="negative")
    data.setup()
    split = data.splits["train"]
    assert (split.stored["pair"].int() + split.images.int() - 255).abs().float().mean() < 0.1


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_numbers_are_standardised_by_the_training_images_and_a_tile_has_those_of_its_photograph(paired):
    table = write(paired / "t.csv", [["age", "file", "size"], *([i, f"x/{i}.png", 7] for i in range(10))])
    for tiles in (None, 5):
        condition = Columns(table, ["size", "age"])
        data = loaded(paired, condition, tiles=tiles)
        found = condition(torch.zeros(1), data.splits["train"].stored)["numbers"]
        torch.testing.assert_close(found[:, 1].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(found[:, 1].std(correction=0), torch.tensor(1.0))
        assert (found[:, 0] == 0).all()
        val = data.splits["val"]
        assert [int(age) for _, age in val.stored["numbers"].tolist()] == [int(name[2]) for name in val.names]
        asked = condition.own(torch.tensor([[7.0, 3.5]]))["numbers"]
        mean, std = (condition.figures[key][1] for key in ("mean", "std"))
        assert asked.tolist()[0] == pytest.approx([0, (3.5 - mean) / std])


REFUSED = {
    "a column of text": ([["file", "age"], ["x/0.png", "old"]], "age of x/0.png is 'old'; expected a number"),
    "an empty cell": ([["file", "age"], ["x/0.png", ""]], "age of x/0.png is ''; expected a number"),
    "no such column": ([["file", "ago"], ["x/0.png", "1"]], "no column 'age' (did you mean ago?); its columns: file"),
    "a missing row": ([["file", "age"], ["x/0.png", "1"]], "no row for 'x/"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_tables_that_do_not_fit_are_refused(paired, name):
    rows, said = REFUSED[name]
    with pytest.raises(UserError) as error:
        loaded(paired, Columns(write(paired / "t.csv", rows), ["age"]))
    assert said in str(error.value)


def test_a_network_that_enlarges_is_scaled_for_the_noise_of_the_small_picture():
    """Its input and its target have variance 1 and are uncorrelated, as in EDM, at each level of the noise."""
    seen, out, n = [], 0.0, 20_000

    def network(x, label, augment):
        seen.append(x[:, :1])
        return torch.full_like(x[:, :1], out)

    module, noise = torch.nn.Module(), Streams.of(n, "noise")
    module.forward = network
    denoiser = denoiser_of(module, VE(0.01, 10), EDM(0.1), **Lowres().widths((1, 2, 2)))
    s, t = torch.tensor([0.0, 0.1, 0.5, 0.9]).repeat(n // 4), torch.full((n,), 0.4, dtype=torch.float64)
    level, (estimate, x0, eps, error) = s.view(-1, 1, 1, 1), (noise.normal(1, 2, 2) for _ in range(4))
    x_t = x0 + denoiser.schedule(t)[1].view(-1, 1, 1, 1).float() * eps
    picture = torch.cat([(1 - level**2).sqrt() * (x0 - 0.1 * estimate) + level * error, torch.ones_like(x0)], dim=1)
    given = {"picture": picture, "vector": torch.stack([s, torch.ones_like(s)], dim=1)}
    at_0 = denoiser(x_t, t, **given).x0
    out = 1.0
    target = (x0 - at_0) / (denoiser(x_t, t, **given).x0 - at_0)
    for k in range(4):
        moments = torch.stack([seen[0][k::4].flatten(), target[k::4].flatten()]).cov()
        torch.testing.assert_close(moments, torch.eye(2), atol=0.05, rtol=0)


@pytest.mark.parametrize("prediction", [V(), X0(), EDM(0.1)])
def test_with_a_small_picture_a_network_learns_the_difference_to_it(prediction):
    """One that learns nothing, and sees no difference, estimates the picture itself; without a picture, zeros."""
    seen = []

    def network(x, label, augment):
        seen.append(x[:, :3])
        return torch.zeros_like(x[:, :3])

    module = torch.nn.Module()
    module.forward = network
    denoiser = denoiser_of(module, sigmoid(), prediction, **Lowres().widths((3, 8, 8)))
    picture, t = torch.rand(2, 4, 8, 8), torch.tensor([0.2, 0.9])
    x_t = denoiser.schedule(t)[0].view(2, 1, 1, 1).float() * picture[:, :3]
    estimate = denoiser(x_t, t, picture=picture, vector=torch.zeros(2, 2))
    torch.testing.assert_close(estimate.x0, picture[:, :3], atol=1e-5, rtol=0)
    assert seen[0].abs().max() < 1e-5
    assert denoiser(torch.zeros_like(x_t), t).x0.abs().max() == 0
