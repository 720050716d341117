"""The class of each sample, and that it reaches the network."""

import pytest
import torch
from networks import randomised
from torch import Tensor

from diffusion.errors import UserError
from diffusion.model import DiT
from diffusion.process.denoiser import Denoiser
from diffusion.process.prediction import V
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import VP
from diffusion.randomness import proportional
from diffusion.sampling.drawing import Drawing, Labels

COUNTS = {"sky": 50, "sea": 30, "7": 20}


def denoiser(classes: int = 3) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(randomised(DiT(3, 3, patch=2, width=8, depth=1, heads=2, classes=classes)), VP(), V())


def classes_of(labels: Labels, n: int, counts: dict[str, int] = COUNTS, classes: int = 3) -> list[int] | None:
    given = Drawing(DDIM(3), (3, 4, 4), 0, labels=labels, counts=counts).conditions(denoiser(classes), n)
    return given["classes"].tolist() if given else None


@pytest.mark.parametrize("counts", [[50, 30, 20], [1, 0, 99], [7], [1] * 10])
def test_default_classes_are_proportional_for_any_number_of_samples(counts: list[int]) -> None:
    whole = proportional(counts, 500)
    shares = torch.tensor(counts) / sum(counts)
    for n in (1, 10, 36, 250, 500):
        found = proportional(counts, n)
        assert torch.equal(found, whole[:n])  # so image i does not depend on n
        assert (found.bincount(minlength=len(counts)) - n * shares).abs().max() <= 2


@pytest.mark.parametrize(
    ("labels", "classes"),
    [(2, [2] * 4), ("sea", [1] * 4), (["sea", 0, "7"], [1, 0, 2, 1]), ("none", None), (None, [0, 2, 1, 0])],
)
def test_labels_can_be_numbers_or_names(labels, classes) -> None:
    assert classes_of(labels, 4) == classes


def test_a_class_may_be_called_none() -> None:
    assert classes_of("none", 2, {"none": 3, "sea": 4}) == [0, 0]


@pytest.mark.parametrize("labels", [3, -1, True, "seas", [0, "hills"]])
def test_unknown_classes_are_refused(labels) -> None:
    with pytest.raises(UserError, match=r"labels?="):
        classes_of(labels, 4)


def test_a_model_without_labels_has_no_classes() -> None:
    with pytest.raises(UserError):
        classes_of(0, 4, {}, 0)
    assert classes_of(None, 4, {}, 0) is None


def draw(classes: Tensor, batch_size: int = 3, share: tuple[int, int] = (0, 1)) -> Tensor:
    drawing = Drawing(DDIM(3), (3, 4, 4), 0, labels=classes.tolist())
    return drawing(denoiser(), len(classes), torch.device("cpu"), batch_size, share=share)


def test_an_image_depends_on_its_own_class_and_not_on_its_batch() -> None:
    classes = torch.tensor([0, 1, 2, 1, 0])
    images = draw(classes)
    assert torch.equal(draw(classes, 2), images)
    assert torch.equal(draw(classes[:2]), images[:2])
    other = draw(torch.tensor([0, 1, 2, 2, 0]))
    assert [torch.equal(a, b) for a, b in zip(images, other, strict=True)] == [True, True, True, False, True]
    assert torch.equal(draw(classes, 2, share=(1, 2)), images[2:4])
