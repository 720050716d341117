"""Dropout per example: the right share, independent between examples, and the same in any batch."""

import pytest
import torch
from torch import Tensor, nn

from diffusion.model.network import Dropout, examples


def dropped(index: Tensor, p: float = 0.2, shape: tuple[int, ...] = (4, 40, 50), seed: int = 0) -> Tensor:
    """The dropped elements of each example."""
    torch.manual_seed(seed)
    with examples(index):
        return Dropout(p)(torch.ones(len(index), *shape)) == 0


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_a_fraction_p_is_dropped_and_the_rest_is_rescaled(p):
    torch.manual_seed(0)
    x = torch.ones(50, 4, 40, 50)
    with examples(torch.arange(50)):
        y = Dropout(p)(x)
    error = (p * (1 - p) / x.numel()) ** 0.5
    assert float((y == 0).double().mean()) == pytest.approx(p, abs=4 * error)
    assert y[y != 0].unique().tolist() == pytest.approx([1 / (1 - p)])


@pytest.mark.parametrize("other", [1, 2, 3, 64, 1000, 4096])
def test_masks_of_two_examples_are_independent(other):
    a, b = dropped(torch.tensor([7, 7 + other]), shape=(1_000_000,))
    assert float((a & b).double().mean()) == pytest.approx(0.2**2, abs=4 * (0.04 * 0.96 / 1e6) ** 0.5)


def test_a_mask_does_not_depend_on_the_batch_or_its_order():
    index = torch.tensor([5, 900, 3, 8, 70_000, 1])
    whole = dropped(index)
    parts = [dropped(index[:4]), dropped(index[4:])]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole.flip(0), dropped(index.flip(0)))
    assert len({mask.numpy().tobytes() for mask in whole}) == 6
    assert not torch.equal(whole, dropped(index, seed=1))


def test_without_example_indices_or_in_evaluation_it_equals_torch_dropout():
    x, layer = torch.randn(6, 3, 4, 4), Dropout(0.3)
    torch.manual_seed(1)
    mine = layer(x)
    torch.manual_seed(1)
    assert torch.equal(mine, nn.Dropout(0.3)(x))
    with examples(torch.arange(6)):
        assert torch.equal(layer.eval()(x), x)
        assert torch.equal(Dropout(1.0)(x), torch.zeros_like(x))
        assert torch.equal(Dropout(0.0)(x), x)
    assert not layer.state_dict()
