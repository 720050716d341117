"""Faults in the formulas of diffusion/process. The tests in tests/process must detect each of them."""

import diffusers  # imported here once, not in each fault's process, for speed; the project itself is not
import hydra.utils  # noqa: F401
import scipy.integrate
import scipy.special  # noqa: F401
from faults.fault import Fault

for name in ("DDPMScheduler", "DDIMScheduler", "UniPCMultistepScheduler"):
    getattr(diffusers, name)  # diffusers imports lazily


PARITY = "test_sampler_parity.py"
BASIC = "test_ancestral_ddim.py"
SAMPLERS = "test_samplers.py"
CALLS = "test_sampler_calls.py"
MEMOIR = "test_memoir.py"
SCHEDULE = "test_schedule.py"
PREDICTION = "test_prediction.py"
WEIGHTING = "test_weighting.py"
TIMESTEPS = "test_timesteps.py"
OBJECTIVE = "test_objective.py"
NOISE = "test_noise.py"
LIKELIHOOD = "test_likelihood.py"


def fault(what: str, sound: str, faulty: str, tests: str) -> Fault:
    """A fault that tests/process/`tests` must detect."""
    return Fault(what, sound, faulty, f"process/{tests}")


FAULTS = [
    fault(
        "a small float32 time is that of the clean image",
        "        near &= position > 0.5  # but",
        "        # but",
        SCHEDULE,
    ),
    fault(
        "the time label is rounded to the precision of the images",
        "label.to(torch.promote_types(x_t.dtype, torch.float32))",
        "label.to(x_t.dtype)",
        "test_conditions.py",
    ),
    fault("DDIM: η instead of η²", "self.eta**2 *", "self.eta *", BASIC),
    fault("DDIM: r instead of r²", "s.sigma**2 * -math.expm1(2 * (", "s.sigma**2 * -math.expm1((", BASIC),
    fault("ancestral: σ_t instead of σ_s", "s.sigma * r * now", "t.sigma * r * now", BASIC),
    fault(
        "ancestral: variance instead of standard deviation", "exp(log_variance / 2).to(", "exp(log_variance).to(", BASIC
    ),
    fault(
        "reverse diffusion: α_s/α_t instead of α_t/α_s",
        "2 - t.alpha / s.alpha",
        "2 - s.alpha / t.alpha",
        PARITY,
    ),
    fault("reverse diffusion: wrong sign of the score term", "* x_t - G**2", "* x_t + G**2", PARITY),
    fault("Langevin: √ε instead of √(2ε)", "(2 * size).sqrt()", "size.sqrt()", PARITY),
    fault("exponential: wrong sign of the x0 term", "s.alpha * -math", "s.alpha * math", PARITY),
    fault("exponential: σ_t instead of σ_s in the noise", "mean + s.sigma", "mean + t.sigma", PARITY),
    fault("exponential: noise without the factor 2", "(-2 * eta * h)", "(-eta * h)", PARITY),
    fault("multistep: moments off by one", "powers + 2, -H", "powers + 1, -H", PARITY),
    fault(
        "2M: one estimate too many",
        'attrgetter("lam"), t, s, past[: self.order_of(denoise) - 1]',
        'attrgetter("lam"), t, s, past[: self.order_of(denoise)]',
        PARITY,
    ),
    fault("2M: points on the wrong side", "(axis(p.t) - start)", "(start - axis(p.t))", PARITY),
    fault("3M: the second difference is not scaled", "exact[1:] *= curvature", "pass", PARITY),
    fault("UniPC: full order in the last steps", "min(self.order, denoise.steps_left - later)", "self.order", PARITY),
    fault("2S: D used over the whole step", "D, middle, s, self.eta", "D, t, s, self.eta", PARITY),
    fault(
        "UniPC: the uncorrected x is kept",
        "estimate)\n        return self.solve(now,",
        "estimate)\n        now = predicted if past else now\n        return self.solve(now,",
        PARITY,
    ),
    fault("UniPC: past off by one", "past[1 : self.order_of", "past[2 : self.order_of", PARITY),
    fault("Adams–Bashforth: wrong sign of a step term", "(s.sigma - s.alpha *", "(s.sigma + s.alpha *", PARITY),
    fault("Heun: only the second slope", "(now.estimate.eps + estimate_s.eps) / 2", "estimate_s.eps", PARITY),
    fault("churn: less noise instead of more", "t.lam - math.log1p", "t.lam + math.log1p", PARITY),
    fault("midpoint: u and 1 − u swapped", "math.log((1 - u) / u)", "math.log(u / (1 - u))", PARITY),
    fault(
        "Dormand–Prince: stages at the end of the step",
        "u + float(c) * h",
        "u + h",
        f"{SAMPLERS}::test_probability_flow_samples_a_gaussian",
    ),
    fault(
        "Dormand–Prince: one step size for the batch",
        "h = h * (0.9 * ratio**-0.2)",
        "h = h * (0.9 * ratio.max() ** -0.2)",
        f"{CALLS}::test_an_image_depends_only_on_its_seed",
    ),
    fault("loop: only σ at the start", "x * math.hypot(times[0].alpha, times[0].sigma)", "x * times[0].sigma", PARITY),
    fault(
        "loop: the oldest points are kept instead of the newest",
        "[now, *past[: MEMORY - 1]]",
        "[*past, now][:MEMORY]",
        PARITY,
    ),
    fault("loop: half log-SNR without the half", "log_snr(t) / 2]", "log_snr(t)]", BASIC),
    fault(
        "large variance: σ_s instead of σ_t",
        "torch.log(sigma_t**2 * rest)",
        "torch.log(schedule(s)[1] ** 2 * rest)",
        BASIC,
    ),
    fault("threshold: eps is not recomputed", "_replace(x0=x0, eps=eps)", "_replace(x0=x0)", BASIC),
    fault("dynamic threshold: s below 1", "clamp(min=1).reshape(-1, *", "reshape(-1, *", "test_sampler_configs.py"),
    fault("leading grid: row 0 is evaluated", "rows = 1 + torch.arange", "rows = torch.arange", "test_grid.py"),
    fault(
        "grid: t = 1 is not used as the first time",
        "if sigma_max is None or largest == last:",
        "if False:",
        "test_grid.py",
    ),
    fault("start: the grid's times above t are not skipped", "grid[grid < t * (1 - 1e-4)]", "grid[1:]", CALLS),
    fault(
        "Karras grid: ρ and 1/ρ swapped",
        "lambda v: v ** (1 / rho), lambda u: u**rho",
        "lambda v: v**rho, lambda u: u ** (1 / rho)",
        "test_grid.py",
    ),
    fault(
        "mixture: α² instead of α",
        "alpha * self.variances / total",
        "alpha**2 * self.variances / total",
        "test_oracle.py",
    ),
    fault(
        "v: wrong sign of x0",
        "return -sigma_t, alpha_t",
        "return sigma_t, alpha_t",
        f"{CALLS}::test_a_compiled_network_gives_the_same_images",
    ),
    fault(
        "table: ᾱ shifted by one row",
        "torch.log1p(-betas).cumsum(0)])",
        "torch.log1p(-betas.roll(1)).cumsum(0)])",
        MEMOIR,
    ),
    fault(
        "table: float32 rows are not found",
        "gap * near",
        "gap * ~near",
        SCHEDULE,
    ),
    fault(
        "table: slope of zero at a row",
        "(gap * near).detach()",
        "(gap * near)",
        SCHEDULE,
    ),
    fault(
        "table: the inverse ignores the first interval",
        "torch.where(log_snr > rows[0], below,",
        "torch.where(log_snr > rows[0], between,",
        SCHEDULE,
    ),
    fault(
        "table: wrong slope where the last interval begins",
        "position >= self.steps - 1",
        "position > self.steps - 1",
        SCHEDULE,
    ),
    fault("table: the inverse ignores the last interval", "< rows[-2], above,", "< rows[-2], between,", SCHEDULE),
    fault(
        "table: rounded by a conversion to half precision",
        "self._buffers[name] = table.to(device=device, dtype=real_dtype(device))",
        "self._buffers[name] = fn(table)",
        SCHEDULE,
    ),
    fault(
        "zero SNR: scaled relative to row 0 instead of row 1",
        "* alpha[1] / (alpha[1] - alpha[-1])",
        "/ (1 - alpha[-1])",
        SCHEDULE,
    ),
    fault("shift: not doubled in log-SNR", "- 2 * math.log(shift)", "- math.log(shift)", SCHEDULE),
    fault(
        "VP: β_max instead of β_max − β_min",
        "(self.beta_max - self.beta_min) * t**2",
        "self.beta_max * t**2",
        SCHEDULE,
    ),
    fault(
        "sub-VP: the sigma of VP",
        "-torch.expm1(-integral)\n\n    def time(self, log_snr: Tensor) -> Tensor:\n        sigma",
        "torch.sqrt(-torch.expm1(-integral))\n\n    def time(self, log_snr: Tensor) -> Tensor:\n        sigma",
        SCHEDULE,
    ),
    fault("sde: g² without f", "(d_sigma - f * sigma)", "d_sigma", SCHEDULE),
    fault(
        "cosine: shift applied to sigma²",
        "self.shift * torch.sin",
        "self.shift**0.5 * torch.sin",
        SCHEDULE,
    ),
    fault(
        "solve: wrong sign of y in x0",
        "(b / det, -sigma_t / det)",
        "(b / det, sigma_t / det)",
        PREDICTION,
    ),
    fault("EDM: target without σ_d", "sigma_t / (n * self.sigma_data)", "sigma_t / n", PREDICTION),
    fault("EDM: c_noise of σ²", "log_snr(t) / 8", "log_snr(t) / 4", PREDICTION),
    fault("zero terminal SNR is not rejected", "< 1e-6", "< 0", PREDICTION),
    fault("targets of standard deviation 80 are accepted", "scale > 10 and", "scale > 1000 and", PREDICTION),
    fault("weights of squared errors for other distances", "if measure is not squared and", "if False and", OBJECTIVE),
    fault("the target at t = 0 is not checked", "scale > 10 and (t == 1 or", "scale > 10 and (t == 1 and", PREDICTION),
    fault(
        "inputs of standard deviation 80 are not scaled",
        ".clamp(min=1), 1000",
        ".clamp(min=1, max=1), 1000",
        PREDICTION,
    ),
    fault("label off by one", "1000 * t - 1", "1000 * t", MEMOIR),
    fault(
        "small variance: σ_t instead of σ_s",
        "torch.log(sigma_s**2 * rest)",
        "torch.log(schedule(t)[1] ** 2 * rest)",
        MEMOIR,
    ),
    fault(
        "large variance: β_1 at the last step",
        "torch.where(s == 0, fixed_small",
        "torch.where(s < 0, fixed_small",
        "test_variance.py",
    ),
    fault("small variance: −∞ at the last step", "t.clamp(max=0.5), s)", "s, s)", "test_variance.py"),
    fault(
        "learned range: spread instead of (spread + 1)/2",
        "(spread + 1) / 2",
        "spread",
        "test_variance.py",
    ),
    fault(
        "KL: variances swapped",
        "log_ratio = log_variance1 - log_variance2",
        "log_ratio = log_variance2 - log_variance1",
        "test_variance.py",
    ),
    fault("weights: q instead of q²", "weight * q**2", "weight * q", WEIGHTING),
    fault("min-SNR: maximum instead of minimum", "clamp(max=gamma)", "clamp(min=gamma)", WEIGHTING),
    fault("velocity: minimum instead of maximum", "clamp(min=clip)", "clamp(max=clip)", WEIGHTING),
    fault("velocity: σ instead of σ²", "clip) ** -2", "clip) ** -1", WEIGHTING),
    fault("sigmoid: wrong sign of log-SNR", "bias - schedule.log_snr(t)", "bias + schedule.log_snr(t)", WEIGHTING),
    fault("vlb: 1 − r² instead of its square", "(alpha_s * rest) ** 2", "alpha_s**2 * rest", WEIGHTING),
    fault("importance: 1/|dt/du| instead of |dt/du|", "slope.abs()", "1 / slope.abs()", TIMESTEPS),
    fault(
        "uniform table: rows from 0",
        "(1 + torch.floor(u * steps)) / steps",
        "torch.floor(u * steps) / steps",
        TIMESTEPS,
    ),
    fault(
        "log-normal: not truncated at the end of the schedule",
        "_above_zero(u) * torch.special.ndtr(largest)",
        "_above_zero(u)",
        TIMESTEPS,
    ),
    fault("loss-aware: importance p instead of 1/p", "1 / (steps * p[i])", "steps * p[i]", TIMESTEPS),
    fault("loss-aware: rows off by one", ".round().long() - 1", ".round().long() - 2", TIMESTEPS),
    fault(
        "loss-aware: square instead of root mean square",
        "losses.square().mean(dim=1).sqrt()",
        "losses.square().mean(dim=1)",
        TIMESTEPS,
    ),
    fault(
        "noise: objectives ignore the chosen pairing",
        "eps = self.noise(x0, streams)",
        "eps = streams.normal_like(x0)",
        NOISE,
    ),
    fault(
        "noise: the chosen pairing is not passed on by a subclass",
        "super().__init__(timesteps, noise)",
        "super().__init__(timesteps)",
        NOISE,
    ),
    fault("nearest: the farthest candidate is chosen", "distance.argmin(dim=1)", "distance.argmax(dim=1)", NOISE),
    fault(
        "nearest: |sum of differences| instead of the distance",
        ".flatten(2).square().sum(dim=2)",
        ".flatten(2).sum(dim=2).abs()",
        NOISE,
    ),
    fault("nearest: only one candidate is drawn", "streams.normal_like(x0, k)", "streams.normal_like(x0, 1)", NOISE),
    fault(
        "assigned: the costliest pairs are chosen",
        "linear_sum_assignment((distance**power)",
        "linear_sum_assignment(-(distance**power)",
        NOISE,
    ),
    fault("assigned: the power of the distance is ignored", "(distance**power).cpu()", "distance.cpu()", NOISE),
    fault(
        "assigned: the inverse permutation",
        "torch.from_numpy(order).to(eps.device)",
        "torch.from_numpy(order).argsort()",
        NOISE,
    ),
    fault("hybrid: the mean is not detached", "y=batch.y.detach()", "y=batch.y", OBJECTIVE),
    fault("hybrid: a fixed variance is accepted", 'getattr(variance, "func", variance) in', "() and () in", OBJECTIVE),
    fault(
        "predictor–corrector: divides by a score of zero",
        "torch.where(score_norm > 0, noise_norm / score_norm, 0.0)",
        "noise_norm / score_norm",
        SAMPLERS,
    ),
    fault(
        "predictor–corrector: never uses x0",
        "return self.predictor(self.steps, self.grid, self.threshold).uses_x0",
        "return False",
        SAMPLERS,
    ),
    fault(
        "flow likelihood: starts at a time, whatever its noise level",
        "float(copy.deepcopy(schedule).cpu().time(-2 * level.log()))",
        "1e-5",
        "test_likelihood.py",
    ),
    fault("flow likelihood: x is not scaled", "x = first_alpha * (x0", "x = (x0", "test_likelihood.py"),
    fault("validation: even times on every schedule", "if not mostly_noise(schedule):", "if True:", "test_grid.py"),
    fault("vlb: without the factor T", "steps * bound_term(", "bound_term(", OBJECTIVE),
    fault("uncertainty: −u instead of +u", "u.exp() + u)", "u.exp() - u)", OBJECTIVE),
    fault("objective: without importance", '"loss": importance * term', '"loss": term', OBJECTIVE),
    fault(
        "decoder: δ₋ = ∞ at the lowest level, as misprinted in the memoir",
        "-torch.inf, low)",
        "torch.inf, low)",
        LIKELIHOOD,
    ),
    fault(
        "decoder: the lowest level has a finite lower bound",
        "x0 < -1 + 1 / 255, -torch.inf, low",
        "x0 < -2, -torch.inf, low",
        LIKELIHOOD,
    ),
    fault("decoder: half the interval", "(-1 / 255, 1 / 255)", "(-1 / 510, 1 / 510)", LIKELIHOOD),
    fault(
        "bound: α_t instead of α_s",
        "alpha_s, _ = schedule(s)\n    _, rest = ratio(schedule, t, s)\n    log_variance",
        "alpha_s, _ = schedule(t)\n    _, rest = ratio(schedule, t, s)\n    log_variance",
        LIKELIHOOD,
    ),
    fault(
        "bound: the prior at t = 1 instead of the grid's last time",
        "prior_term(schedule, x0, float(times[-1]))",
        "prior_term(schedule, x0)",
        LIKELIHOOD,
    ),
    fault("flow: wrong sign of the divergence", "-(log_prior + change)", "-(log_prior - change)", LIKELIHOOD),
    fault("flow: without the volume of the dequantisation", " - math.log2(2 / 255 * first_alpha)", "", LIKELIHOOD),
    fault("flow: half the change of variables", "slope / rate, x0", "slope / rate / 2, x0", LIKELIHOOD),
    Fault(
        "linspace rounds half a row to the other side",
        "torch.from_numpy(np.linspace(0, table - 1, steps).round())",
        "torch.linspace(0, table - 1, steps, dtype=torch.float64).round()",
        "process/test_grid.py::test_row_spacings_match_diffusers[27-linspace-linspace]",
    ),
    Fault(
        "the learned weight moves faster with more features",
        " / self.weight.shape[1] ** 0.5",
        "",
        "process/test_objective.py::test_learned_uncertainty_with_weights_of_1_has_unit_size",
    ),
]
