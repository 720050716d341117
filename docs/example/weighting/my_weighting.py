from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from diffusion.process.prediction import Prediction
from diffusion.process.schedule import Schedule


def my_weighting(schedule: Schedule, prediction: Prediction, t: Tensor, power: Annotated[float, Ge(0)] = 0.5) -> Tensor:
    """SNR^power ‖x0 − x0_θ‖², with SNR = alpha_t²/sigma_t²: the weight (B,) of the network's error at times t (B,).

    power = 1 is the error of the noise, 0 that of the image, and 1/2 lies between them (Yu et al. 2023).

    Args:
        power: 0 weighs all noise levels alike; larger values favour low noise.
    """
    (_, q), _ = prediction.solve(schedule, t)  # x0 = p x_t + q y, so ‖x0 − x0_θ‖² = q² ‖y − y_θ‖²
    return (power * schedule.log_snr(t)).exp() * q**2
