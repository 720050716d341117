"""Metrics of the samples alone, without a reference: the Inception Score and the Vendi score."""

import math

import torch
from torch import Tensor

from diffusion.metric.estimate import ROWS, Estimate, Reference, SampleMetric, infinitesimal_jackknife


class InceptionScore(SampleMetric):
    """Inception Score: how confident and how diverse the predicted classes of the samples are (Salimans et al. 2016).

        IS = exp( mean_i KL(p(y | x_i) ‖ p̄(y)) ),   p̄ = mean_i p(y | x_i)

    It is computed over all samples at once (Barratt & Sharma 2018, arXiv:1801.01973). The mean over ten parts, which
    some tables report, is lower, because the score grows with the number of samples.
    """

    uses = "logits"

    def measure(self, x: Tensor, reference: Reference) -> dict[str, Estimate]:
        """`inception_score`, at least 1."""
        log_p = torch.cat([rows.double().log_softmax(dim=1) for rows in x.split(ROWS)])
        log_mean = log_p.logsumexp(dim=0) - math.log(len(x))
        kl = (log_p.exp() * (log_p - log_mean)).sum(dim=1)
        value = float(kl.mean().exp())
        return {"inception_score": Estimate(value, value * infinitesimal_jackknife(kl), minimum=1.0)}


class Vendi(SampleMetric):
    """Vendi score: the effective number of distinct samples (Friedman & Dieng 2023, arXiv:2210.02410, eq. 2).

        VS = exp( −Σ_k λ_k log λ_k ),   λ the eigenvalues of K/n,  K_ij = cos(x_i, x_j)

    It is 1 if all samples are the same, and n if all are orthogonal. K/n has the same eigenvalues as the D×D matrix
    mean_i u_i u_iᵀ of the unit vectors u. The influence of sample i on the entropy is −Σ_k (u_i·v_k)² log λ_k.
    """

    def measure(self, x: Tensor, reference: Reference) -> dict[str, Estimate]:
        """`vendi`, at least 1."""
        u = x.double()
        u = u / u.norm(dim=1, keepdim=True).clamp(min=1e-300)
        values, vectors = torch.linalg.eigh(u.T @ u / len(u))
        log = values.clamp(min=torch.finfo(values.dtype).eps).log()  # an eigenvalue of 0 does not change the entropy
        influence = -(u @ vectors).square() @ log
        value = float(influence.mean().exp())
        return {"vendi": Estimate(value, value * infinitesimal_jackknife(influence), minimum=1.0)}
