"""Numbers of the samples alone, without a reference: the Inception Score and the Vendi score."""

import math

import torch
from torch import Tensor

from diffusion.metric.estimate import ROWS, Estimate, SampleMetric, infinitesimal_jackknife


class InceptionScore(SampleMetric):
    """exp of the mean Kullback-Leibler divergence of a sample's classes from all samples' (Salimans et al. 2016).

        IS = exp( mean_i KL(p(y | x_i) ‖ p̄(y)) ),   p̄ = mean_i p(y | x_i)

    Over all samples at once (Barratt & Sharma 2018, arXiv:1801.01973): the mean over ten parts, which some tables have,
    is lower, as the score grows with the number of samples.
    """

    higher_is_better = True
    needs_logits = True

    def measure(self, x: Tensor) -> dict[str, Estimate]:
        """`inception_score`, at least 1."""
        log_p = torch.cat([self.head(rows).double().log_softmax(dim=1) for rows in x.split(ROWS)])
        log_mean = log_p.logsumexp(dim=0) - math.log(len(x))
        kl = (log_p.exp() * (log_p - log_mean)).sum(dim=1)
        value = float(kl.mean().exp())
        return {"inception_score": Estimate(value, value * infinitesimal_jackknife(kl), minimum=1.0)}


class Vendi(SampleMetric):
    """The effective number of distinct samples (Vendi score: Friedman & Dieng 2023, arXiv:2210.02410, eq. 2).

        VS = exp( −Σ_k λ_k log λ_k ),   λ the eigenvalues of K/n,  K_ij = cos(x_i, x_j)

    1 where all samples are the same, n where all are orthogonal. Those of K/n are those of the D×D matrix
    mean_i u_i u_iᵀ of the unit vectors u; sample i's influence on the entropy is −Σ_k (u_i·v_k)² log λ_k.
    """

    def measure(self, x: Tensor) -> dict[str, Estimate]:
        """`vendi`, at least 1."""
        u = x.double()
        u = u / u.norm(dim=1, keepdim=True).clamp(min=1e-300)
        values, vectors = torch.linalg.eigh(u.T @ u / len(u))
        log = values.clamp(min=torch.finfo(values.dtype).eps).log()  # an eigenvalue of 0 adds nothing to the entropy
        influence = -(u @ vectors).square() @ log
        value = float(influence.mean().exp())
        return {"vendi": Estimate(value, value * infinitesimal_jackknife(influence), minimum=1.0)}
