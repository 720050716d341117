import torch
from torch import Tensor

from diffusion.metric.estimate import PairwiseMetric, Statistic, jackknife


class MyMetric(PairwiseMetric):
    """The energy distance of samples x (N, D) and real images y (M, D), by their features (Székely & Rizzo 2013):

        2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖,    unbiased, and 0 for equal distributions

    The interval is that of the jackknife: from the values without each sample in turn.
    """

    def compare(self, x: Tensor, y: Tensor) -> dict[str, Statistic]:
        """Estimates by the first part of their name: `energy`, which becomes energy_lite0."""
        (n, m), xy, xx, yy = (len(x), len(y)), torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)
        real = yy.sum() / (m * (m - 1))
        value = 2 * xy.mean() - xx.sum() / (n * (n - 1)) - real
        across, within = xy.sum() - xy.sum(dim=1), xx.sum() - 2 * xx.sum(dim=1)  # without each sample, (N,)
        without = 2 * across / ((n - 1) * m) - within / ((n - 1) * (n - 2)) - real
        return {"energy": Statistic(float(value), jackknife(without))}
