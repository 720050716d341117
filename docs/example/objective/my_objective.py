from typing import Annotated, Any

from annotated_types import Gt
from torch import Tensor

from diffusion.process.denoiser import Denoiser
from diffusion.process.objective import Objective, TrainingBatch


class MyObjective(Objective):
    """The pseudo-Huber loss of a whole image (Song & Dhariwal 2023), where y is the target of the prediction:

        √(‖y − y_θ‖² + c²) − c,    with ‖·‖² the mean over pixels: quadratic below c, linear above

    Args:
        c: The error at which it changes from quadratic to linear.
    """

    def __init__(self, c: Annotated[float, Gt(0)] = 0.1, **parts: Any):
        super().__init__(**parts)  # timesteps and noise
        self.c = c

    def term(self, denoiser: Denoiser, batch: TrainingBatch) -> Tensor:
        """The loss of each image, (B,), from the network's output batch.y and batch.target, both (B, C, H, W)."""
        square = (batch.y - batch.target).square().flatten(1).mean(dim=1)
        return (square + self.c**2).sqrt() - self.c
