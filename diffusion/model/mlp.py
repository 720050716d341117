"""A multilayer perceptron, for points and small images."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from diffusion.model.network import Network, TimeEmbedding

Count = Annotated[int, Ge(1)]


class MLP(Network):
    """x (B, in_channels, side, side), label (B,), classes (B,) -> (B, out_channels, side, side), 0 at initialisation.

        h = W_in x;    h ← h + W₂ silu((1 + γ)·W₁ norm(h) + β), `depth` times;    y = W_out norm(h)

    γ and β are linear in the embedding of label and class. `side` is 1 for points; `out_channels` None: in_channels.
    """

    def __init__(
        self, in_channels: Count = 3, out_channels: Count | None = None, side: Count = 1, width: Count = 64,
        depth: Count = 4, classes: Annotated[int, Ge(0)] = 0, augment: Annotated[int, Ge(0)] = 0,
    ):  # fmt: skip
        super().__init__(side, classes)
        self.embedding = TimeEmbedding(64, width, classes, augment=augment)
        self.stem = nn.Linear(in_channels * side**2, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth + 1))
        self.modulations = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.first, self.second = (nn.ModuleList(nn.Linear(width, width) for _ in range(depth)) for _ in range(2))
        self.out = nn.Linear(width, (out_channels or in_channels) * side**2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        emb, h = self.embedding(label, self.class_rows(classes, label), augment), self.stem(x.flatten(1))
        for norm, modulation, first, second in zip(self.norms, self.modulations, self.first, self.second, strict=False):
            gamma, beta = modulation(emb).chunk(2, dim=1)
            h = h + second(F.silu((1 + gamma) * first(norm(h)) + beta))
        return self.out(self.norms[-1](h)).unflatten(1, (-1, *x.shape[2:]))
