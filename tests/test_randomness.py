"""Random streams: all bits of a seed count, each image has one, and each step of a loop has new ones."""

import pytest
import torch

from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser
from diffusion.process.objective import Simple
from diffusion.process.prediction import Eps
from diffusion.process.sampler import DDIM
from diffusion.process.schedule import linear
from diffusion.randomness import Streams


def test_streams_of_another_number_of_images_are_rejected_in_one_line() -> None:
    """They would broadcast: one stream would give three images the same noise."""
    images = torch.zeros(3, 1, 4, 4)
    denoiser = Denoiser(torch.nn.Identity(), linear(), Eps())
    denoiser.network.forward = lambda x, label: x  # type: ignore[method-assign]
    for draw in (
        lambda streams: streams.normal_like(images),
        lambda streams: Simple()(denoiser, images, streams),
        lambda streams: DDIM(2, eta=1.0)(denoiser, images, streams),
    ):
        with pytest.raises(
            UserError, match=r"^randomness: 1 random streams for 3 images; .*Streams.of\(3, "
        ) as refusal:
            draw(Streams([0]))
        assert "\n" not in str(refusal.value)
        draw(Streams.of(3, "train", 0))


def test_each_step_of_a_loop_has_streams_of_its_own() -> None:
    first, second, again = (Streams.of(2, 0, "train", step).normal(1000) for step in (0, 1, 0))
    assert torch.equal(first, again)
    assert torch.corrcoef(torch.cat([first, second])).fill_diagonal_(0).abs().max() < 4 / 1000**0.5
