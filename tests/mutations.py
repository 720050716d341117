"""Mutation testing: plant faults, one at a time; the tests must catch each.

    python tests/mutations.py [WORD]

WORD selects the faults of the test files whose names contain it. Exits with 1 if a fault survives, if its text does not
occur exactly once in diffusion/, or if the tests fail without faults.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The tests that must catch the faults: what is wrong, the text in diffusion/, and the faulty text.
FAULTS = {
    "data/test_batches.py": [
        ("order: the same in every epoch", '"order", epoch)', '"order")'),
        ("mirroring: the same in every epoch", '"flip", epoch)', '"flip")'),
        ("every device has the same images", ".view(self.shape)[:, self.rank]", ".view(self.shape)[:, 0]"),
        ("resumed: images before it are counted twice", "+ done - self.done) * size", "+ done) * size"),
    ],
    "training/test_clock.py": [("the last step is not validated", " or step >= self.total", "")],
    "training/test_averages.py": [
        ("EMA: no warm-up", "1 - min(self.decay, (1 + n) / (10 + n))", "1 - self.decay"),
        ("EMA: training goes on with averaged weights", "on_validation_epoch_end = on_validation_epoch_start", ""),
        ("resumed: updates are counted from 0", '"], state_dict["updates"]', '"], 0'),
    ],
    "training/test_device.py": [("EMA: a skipped step is an update", "if not pl_module.stepped:", "if False:")],
    "training/test_resume.py": [
        ("resumed: within a step", "self.seen -= self.seen %", "self.seen %"),
        ("resumed: the learning rate of the checkpoint", "scheduler.base_lrs[i] = rate", "rate"),
        ("the loss of a step is that of its last part", "if batch.number % self.clock.together == 0:", "if True:"),
        ("inherited: a choice undoes its settings", "each.place.count(", "len("),
    ],
    "training/test_init.py": [
        ("init: the size of the images is not inherited", '{"data": values["data"] | data}', "{}"),
        (
            "finetune: what is no group is not inherited",
            '{*default_choices(config), "name", "ckpt", "init"}',
            "{*values}",
        ),
    ],
    "evaluation/test_commands.py": [
        ("the number of samples is not the run's", 'score.get("n") or SCORED', "SCORED"),
        ("by class: any reference has the classes", "    if scorer.given:\n", "    if False:\n"),
    ],
    "training/test_weak_models.py": [("filled with early weights", "if missing or fills:", "if missing:")],
    "reliability/test_exact_resume.py": [
        ("dropout: depends on the process", "torch.default_generator.manual_seed(seed)", "pass"),
        ("resumed: batches counted as steps", "done, began = step * accumulate", "done, began = step"),
    ],
    "report/test_compare.py": [
        ("interval: without 1/√k", "ddof=1) / math.sqrt(len(x))", "ddof=1)"),
        ("ranking: many tests at 5% each", "0.05 / (len(tests) - rank)", "0.05"),
        ("samplings count as seeds", "samplings.setdefault(seed,", "samplings.setdefault(len(samplings),"),
    ],
    "report/test_report.py": [("numbers: a digit too many", "min(1 - math.floor(", "min(2 - math.floor(")],
    "process/test_refused.py": [
        ("interval: a table is assumed to begin at noise level 0", "1 / self.steps if self.steps else 0.0", "0.0"),
        ("a flow that cannot be solved is scored", "if not solution.success:", "if False:"),
        ("weights of squared errors for other distances", "if measure is not squared and", "if False and"),
    ],
    "evaluation/test_audit.py": [
        ("copies: wrongly turned", "torch.tensor(found) * mirrored", "torch.tensor(found) / 2 * mirrored"),
        ("copies: no upside-down views", "x.flip(-2), x.flip(-2, -1))]", "x, x)]"),
        ("copies: nothing is aligned", "affine + step.clamp(-0.15, 0.15)", "affine + 0 * step.clamp(-0.15, 0.15)"),
        ("copies: no gain", "power(own - g * other)", "power(own - other)"),
        ("copies: without the sample's own blur", "power(x - blurred(x, BLUR))", "power(x)"),
        ("copies: the own photograph is one of the others", ".where(value > -torch.inf, -torch.inf).max(", ".max("),
        ("copies: repeats make the audit blind", ".clamp(0, HIGHEST)", ".clamp(0)"),
        ("copies: tiles count as photographs", "ratio**2) if variance else m", "ratio**2) if variance else n"),
        ("copies: tiles are independent", "share * (1 - share) / variance * ratio**2", "n"),
    ],
    "evaluation/test_memorization.py": [
        ("copies: the reference's split is not known", '["train", "val", split]', '["train", "val"]'),
        ("copies: held-out ones are counted as training images", "(index >= len(train))", "(index > len(train))"),
    ],
    "process/test_sampler_parity.py": [
        ("DDIM: η instead of η²", "eta**2 * s.sigma", "eta * s.sigma"),
        ("DDIM: r instead of r²", "s.sigma**2 * -math.expm1(2 * (", "s.sigma**2 * -math.expm1(("),
        ("ancestral: σ_t instead of σ_s", "s.sigma * r * now", "t.sigma * r * now"),
        ("loop: half log-SNR without the half", "log_snr(t) / 2]", "log_snr(t)]"),
        ("threshold: eps is not recomputed", "_replace(x0=x0, eps=eps)", "_replace(x0=x0)"),
        ("Langevin: √ε instead of √(2ε)", "(2 * size).sqrt()", "size.sqrt()"),
        ("exponential: wrong sign of the x0 term", "s.alpha * -math", "s.alpha * math"),
        ("multistep: moments off by one", "powers + 2, -H", "powers + 1, -H"),
        ("2M: points on the wrong side", "(p.t.lam - start) / h", "(start - p.t.lam) / h"),
        ("2S: half-way in log-SNR from its end", "(t.lam + end.lam) / 2", "(t.lam + s.lam) / 2"),
        ("2S: the x0 at t", "exponential(x_t, estimate.x0, t, end)", "exponential(x_t, now.estimate.x0, t, end)"),
        ("3M: the second difference is not scaled", "exact[1:] *= curvature", "pass"),
        ("UniPC: full order in the last steps", "min(self.order, t.left)", "self.order"),
        ("Heun: only the second slope", "(now.estimate.eps + estimate_s.eps) / 2", "estimate_s.eps"),
        ("churn: less noise instead of more", "t.lam - math.log1p", "t.lam + math.log1p"),
        ("loop: only σ at the start", "x * math.hypot(times[0].alpha, times[0].sigma)", "x * times[0].sigma"),
    ],
    "process/test_augmentation.py": [
        ("rotation in the wrong direction", "product(rotation(-theta),", "product(rotation(theta),"),
        ("scaling in the wrong direction", "2 ** (-z_scale / 5)", "2 ** (z_scale / 5)"),
        ("the label of the stretch direction is ambiguous", "z_stretch * (2 * phi).cos()", "z_stretch * phi.cos()"),
        ("the horizontal shift is scaled by the height", "z_right * width / 8", "z_right * height / 8"),
        ("flipped vertically instead of horizontally", "x0.flip(3), x0)", "x0.flip(2), x0)"),
        ("pixels outside the image are black", 'padding_mode="reflection"', 'padding_mode="zeros"'),
        ("every stretch has a random direction", "angles[1] * oblique.float()", "angles[1]"),
        ("vertical flips twice as often", "(0.5, probability / 2,", "(0.5, probability,"),
        ("unchanged images are resampled", "torch.where(geometric[:, None, None, None], moved, x)", "moved"),
        ("positions: top and left swapped", "torch.stack([top, left, torch", "torch.stack([left, top, torch"),
        ("sizes: wrong choice from the cumulative probabilities", "if u < edge)", "if u > edge)"),
        ("coordinates: 1 is beyond the last pixel", "(whole - 1).clamp(min=1)", "whole.clamp(min=1)"),
    ],
    "process/test_averaging.py": [
        ("decay: γ instead of γ + 1", "(1 - 1 / n) ** (gamma + 1)", "(1 - 1 / n) ** gamma"),
        ("gamma: the wrong root of the cubic", "max(0.0, *np.roots", "min(0.0, *np.roots"),
        ("inner product: without + 1", "((gamma_i + gamma_j + 1) * torch.max", "((gamma_i + gamma_j) * torch.max"),
        ("missing: its square instead of itself", "max(0.0, missing) ** 0.5", "max(0.0, missing)"),
    ],
    "process/test_consistency.py": [
        ("pair: the target is computed without conditions", "eps, r), r, **conditions)", "eps, r), r)"),
        ("pair: different dropout masks", "torch.manual_seed(seed)\n        estimate", "estimate"),
        ("n: grows with t", "torch.sigmoid(-self.b * level)", "torch.sigmoid(self.b * level)"),
        ("weight: 1/t instead of 1/(t − r)", "/ (level - lower).to(x0.dtype)", "/ level.to(x0.dtype)"),
        ("pseudo-Huber: twice as large", "(torch.sqrt(square + c**2) + c)", "torch.sqrt(square + c**2)"),
        ("sampler: x0 is not scaled", "x0 = s.alpha * now.estimate.x0", "x0 = now.estimate.x0"),
    ],
    "process/test_flow_map.py": [
        ("the target is not on the path", "expand(sum(denoise.schedule(t)), y) * y", "y"),
        ("the map ends after u", "r * denoiser.schedule.flow_time(t)", "r.clone()"),
        (
            "the slope is that of x0 alone",
            "expand(1 - w, x_t) * estimate.x0 + expand(w, x_t) * estimate.eps",
            "estimate.x0",
        ),
        ("the share is not divided by", "term / self.share", "term"),
        (
            "uncertainty: the residual is not weighed",
            ' / self.log_loss(denoiser.schedule, result["residual_t"]).exp()',
            "",
        ),
        ("labels: not 0 at the diagonal", "1 - phase.cos()", "phase.cos()"),
        (
            "labels: the end after the augmentation",
            "[*labels, *([] if more is None else [more])]",
            "[*([] if more is None else [more]), *labels]",
        ),
        ("sampler: told t instead of the flow time", "s.sigma / (s.alpha + s.sigma), dtype", "s.t, dtype"),
        ("flow time: that of the log-SNR", "2 * torch.log((1 - u) / u)", "torch.log((1 - u) / u)"),
    ],
    "process/test_editing.py": [
        ("a mask's observation has values of unknown pixels", "self.y = self.operator(self.y)", "pass"),
        ("SDEdit: one step too few", "self.inner.steps - self.steps]", "self.inner.steps - self.steps + 1]"),
        ("SDEdit: zero steps are possible", "max(1, round(strength", "max(0, round(strength"),
        ("interpolation: the angles lack the factor π/2", "[w * math.pi / 2 for w in shares]", "[w for w in shares]"),
        ("interpolation: only the first noise is used", "a + expand(a.new_tensor(sin), a) * b", "a"),
        ("RePaint: x is not scaled when noise is added back", "t.alpha / s.alpha * x_s + added", "x_s + added"),
        ("RePaint: one pass too many", "reversed(range(self.passes", "reversed(range(1 + self.passes"),
        ("RePaint: estimates of earlier steps are used", "t, s, [], streams)", "t, s, past, streams)"),
        ("split Gibbs: the known pixels keep their noise", "self.with_known(x_t, t.alpha)", "x_t"),
        ("split Gibbs: no noise between rounds", "s.alpha * x0 + s.sigma * streams", "s.alpha * x0 + 0 * streams"),
    ],
    "process/test_grid.py": [
        ("leading grid: row 0 is evaluated", "(1 + torch.arange(steps", "(torch.arange(steps"),
        ("grid: t = 1 is not used as the first time", "if sigma_max is None or largest == last:", "if False:"),
        ("validation: even times on every schedule", "if not mostly_noise(schedule):", "if True:"),
    ],
    "process/test_guidance.py": [
        ("scale: 1 + w instead of w", "of_weak + scale *", "of_weak + (1 + scale) *"),
        ("scale: strong and weak swapped", "(of_strong - of_weak)", "(of_weak - of_strong)"),
        (
            "windows: quarters come back elsewhere",
            "unflatten(0, (-1, *[2] * n))",
            "unflatten(0, (-1, *[2] * n)).flip(1)",
        ),
        ("eps is not guided", "eps=guided(strong.eps, weak.eps)", "eps=strong.eps"),
        ("the spread comes from the weak model", "return strong._replace(x0=", "return weak._replace(x0="),
        ("scale 1: the weak model is evaluated", "if self.guidance.scale == 1:", "if False:"),
        ("interval: the low end is included", "(level > low) &", "(level >= low) &"),
        ("interval: one decision for the whole batch", "where = expand(acts, x_t).bool()", "where = acts.any()"),
        ("classifier-free: the weak estimate gets the labels too", "if name not in DROPPED}", "}"),
    ],
    "process/test_inverse.py": [
        ("the shift of x0 leaves eps as it was", "eps=eps - alpha / sigma * shift", "eps=eps"),
        ("MMPS: one product too few", ", self.method.iterations)", ", self.method.iterations - 1)"),
        ("MMPS: sigma instead of sigma²/alpha", "0.0, sigma**2 / alpha)", "0.0, sigma)"),
        ("ΠGDM: the prior is left out of r", " + self.method.deviation**-2)", ")"),
        ("gain: the noise instead of its square", "q = noise**2 * p", "q = noise * p"),
        ("split Gibbs: y without its noise", "+ observed.noise * streams.normal_like(seen)", ""),
        ("blur: columns only", "for _ in x.shape[2:]:", "for _ in x.shape[3:]:"),
    ],
    "process/test_floor.py": [
        ("the squared distance is not halved", "noise / s - distance / (2 * s**2)", "noise / s - distance / s**2"),
        ("the noise has the other sign", "noise = noise - (eps * x0)", "noise = (eps * x0)"),
        ("mirror images are left out", "x.flip(-1), x)", "x, x)"),
        ("few images have few noises", "last=noisy.tolist()", "last=index.tolist()"),
        ("labels are not told", "kinds = [(1 - atoms.dropout, same)", "kinds = [(1 - atoms.dropout, None)"),
        ("all labels are told", "kinds = [(1 - atoms.dropout, same), (atoms.dropout, None)]", "kinds = [(1.0, same)]"),
        ("paired noise has the floor of independent noise", "noise is independent and alone", "alone"),
    ],
    "evaluation/test_floor.py": [
        ("an image without another photograph is compared", "kept | (name not in COMPARED)", "kept | True"),
        ("the mean of no images", "others |= ~comparable[-1][:, None]", "pass"),
    ],
    "report/test_floor.py": [("without an interval, nothing is found", "if all(math.isnan(", "if all(math.isinf(")],
    "training/test_conditions.py": [
        ("the floor of augmented images is that of others", "None if changed else Atoms(", "Atoms("),
        ("the floor is computed without labels", "train.labels, dropout, inside", "None, dropout, inside"),
    ],
    "process/test_mixture.py": [
        ("the variance of the noise is left out", "widths**2 + sigma**2", "widths**2 + sigma"),
        ("the density has no normalisation", "squares / v + x.shape[1] * (2 * math.pi * v).log()", "squares / v"),
        ("the posterior has the width of its component", " * sigma[0] / v[0].sqrt()", ""),
    ],
    "process/test_tiles.py": [
        ("windows are not weighted", "whole[window] += weight * each[k]", "whole[window] += each[k]"),
        ("windows may leave a gap", "/ (0.75 * size))", "/ (1.5 * size))"),
    ],
    "data/test_conditions.py": [
        ("lowres: noise is added to the whole picture", "(1 - level**2).sqrt() * x + level", "x + level"),
        ("lowres: samples get the noise of training", "if training else torch.full", "if True else torch.full"),
        ("lowres: the noise is not part of sigma_data", "prediction.widened(s / scale)", "prediction"),
        ("lowres: the centre is that of the noised picture", " / expand(scale, x_t), ", ", "),
        ("lowres: the output is not converted", "(alpha_t * b - sigma_t * a) / det, ", "det / det, "),
        ("inputs: left out, the constant stays", "[*rows, torch.ones_like(", "[*rows, torch.zeros_like("),
        ("numbers: not centred", "(column - mean) / std for", "column / std for"),
    ],
    "process/test_likelihood.py": [
        ("flow likelihood: x is not scaled", "x = first_alpha * (x0", "x = (x0"),
        ("decoder: δ₋ = ∞ at the lowest level, as misprinted in the memoir", "-torch.inf, low)", "torch.inf, low)"),
        ("flow: wrong sign of the divergence", "-(log_prior + change)", "-(log_prior - change)"),
        ("flow: without the volume of the dequantisation", " - math.log2((2 / 255 if", " - 0 * math.log2((2 / 255 if"),
    ],
    "process/test_objective.py": [
        ("v: wrong sign of x0", "return -sigma_t, alpha_t", "return sigma_t, alpha_t"),
        ("nearest: the farthest candidate is chosen", "distance.argmin(dim=1)", "distance.argmax(dim=1)"),
        ("assigned: the power of the distance is ignored", "(distance**power).cpu()", "distance.cpu()"),
        ("hybrid: the mean is not detached", "y=batch.y.detach()", "y=batch.y"),
        ("vlb: without the factor T", "steps * bound_term(", "bound_term("),
        ("uncertainty: −u instead of +u", "u.exp() + u)", "u.exp() - u)"),
        ("objective: without importance", '"loss": importance * term', '"loss": term'),
        ("the learned weight moves faster with more features", " / self.weight.shape[1] ** 0.5", ""),
    ],
    "process/test_prediction.py": [
        ("solve: wrong sign of y in x0", "(b / det, -sigma_t / det)", "(b / det, sigma_t / det)"),
        ("EDM: target without σ_d", "sigma_t / (n * self.sigma_data)", "sigma_t / n"),
        ("label off by one", "1000 * t - 1", "1000 * t"),
        ("scaled images: the target is that of others", "return self.scale * a, b", "return a, b"),
        ("inputs of standard deviation 80 are not scaled", ".clamp(min=1), 1000", ".clamp(min=1, max=1), 1000"),
    ],
    "process/test_samplers.py": [
        ("reverse diffusion: α_s/α_t instead of α_t/α_s", "2 - t.alpha / s.alpha", "2 - s.alpha / t.alpha"),
        ("midpoint: u and 1 − u swapped", "math.log((1 - u) / u)", "math.log(u / (1 - u))"),
        ("start: the grid's times above t are not skipped", "grid[grid < start * (1 - 1e-4)]", "grid[1:]"),
    ],
    "process/test_choices.py": [
        ("dynamic threshold: s below 1", "clamp(min=1).reshape(-1, *", "reshape(-1, *"),
    ],
    "process/test_schedule.py": [
        ("a small float32 time is that of the clean image", "        near &= position > 0.5  # but", "        # but"),
        ("table: float32 rows are not found", "gap * near", "gap * ~near"),
        ("table: slope of zero at a row", "(gap * near).detach()", "(gap * near)"),
        ("table: the inverse ignores the last interval", "< rows[-2], above,", "< rows[-2], between,"),
        ("table: ᾱ shifted by one row", "torch.log1p(-betas).cumsum(0)])", "torch.log1p(-betas.roll(1)).cumsum(0)])"),
        ("shift: not doubled in log-SNR", "- 2 * math.log(shift)", "- math.log(shift)"),
        ("VP: β_max instead of β_max − β_min", "(self.beta_max - self.beta_min) * t**2", "self.beta_max * t**2"),
    ],
    "process/test_timesteps.py": [
        ("importance: 1/|dt/du| instead of |dt/du|", "slope.abs()", "1 / slope.abs()"),
        ("uniform table: rows from 0", "(1 + torch.floor(u * steps)) / steps", "torch.floor(u * steps) / steps"),
        ("loss-aware: importance p instead of 1/p", "1 / (steps * p[i])", "steps * p[i]"),
    ],
    "process/test_variance.py": [
        ("large variance: β_1 at the last step", "torch.where(s == 0, fixed_small", "torch.where(s < 0, fixed_small"),
        ("small variance: −∞ at the last step", "t.clamp(max=0.5), s)", "s, s)"),
        ("learned range: spread instead of (spread + 1)/2", "(spread + 1) / 2", "spread"),
    ],
    "process/test_weighting.py": [
        ("weights: q instead of q²", "weight * q**2", "weight * q"),
        ("min-SNR: maximum instead of minimum", "clamp(max=gamma)", "clamp(min=gamma)"),
        ("soft min-SNR: γ instead of 1/γ", "+ 1 / gamma)", "+ gamma)"),
        ("truncated SNR: minimum instead of maximum", "exp().clamp(min=1)", "exp().clamp(max=1)"),
        ("velocity: minimum instead of maximum", "clamp(min=clip)", "clamp(max=clip)"),
        ("sigmoid: wrong sign of log-SNR", "bias - schedule.log_snr(t)", "bias + schedule.log_snr(t)"),
    ],
    "model/test_networks.py": [
        ("classes: None means class 0", "full_like(label, self.classes,", "full_like(label, 0,"),
        ("checkpointing: never used", "if self.checkpointing and", "if False and"),
        ("checkpointing: recomputed with other dropout masks", "with examples(numbers)", "with examples(None)"),
    ],
    "model/test_layers.py": [
        ("DiT: modulations are not initialised to zero", ' or "modulation" in name', ""),
        ("patch: output channels in another order", "pixel_shuffle(y,", "pixel_shuffle(y.flip(1),"),
    ],
    "model/test_authors.py": [
        ("ADM: the frequencies of DDPM", "frequency_shift=0", "frequency_shift=1"),
        ("SiT: the velocity of the other way", "return -value.unflatten", "return value.unflatten"),
        ("DiT: latents of another scale", "DEVIATION / self.scale", "1 / self.scale"),
        ("JiT: keys are not normalised", "self.norm_q(q), self.norm_k(k)", "self.norm_q(q), k"),
        ("JiT: silu applied to the other half", "F.silu(gate) * h", "F.silu(h) * gate"),
        ("ADM: s instead of 1 + s", "(1 + s) *", "s *"),
    ],
    "model/test_diffusers_weights.py": [
        ("DiT: rows and columns swapped", "[column.sin(), column.cos(), row", "[row.sin(), row.cos(), row"),
        ("DiT: transposed pixels in a patch", "(0, 5, 1, 3, 2, 4)", "(0, 5, 1, 4, 2, 3)"),
    ],
    "model/test_edm2.py": [
        ("EDM2: weights are not normalised in training", "module.force()", "pass"),
        ("EDM2: normalised weights change their bits", "abs() < 1e-5", "abs() < 0"),
        ("EDM2: an earlier forward pass becomes invalid", "self.weight.data.copy_", "self.weight.copy_"),
        ("EDM2: no pixel norm", "x = unit(self.shortcut(x))", "x = self.shortcut(x)"),
        ("EDM2: q, k and v are not normalised", "unit(qkv, [3])", "qkv"),
        ("EDM2: wrong shares of a concatenation", "b * (c * t", "b * (c * (1 - t)"),
    ],
    "test_randomness.py": [
        ("nine rounds instead of ten", "ROUNDS = 10", "ROUNDS = 9"),
        ("the key is the same in every round", "rounds * WEYL[0]", "0 * WEYL[0]"),
        ("the odd word has more than 32 bits", "return even, odd & LOW", "return even, odd"),
        ("only 32 bits of a seed are used", "high = low >> 32", "high = 0 * low"),
        ("u may be 0", "(u + 1).to(real)", "u.to(real)"),
        ("the same word for u and v", "angle = v.to(real)", "angle = u.to(real)"),
        ("Box–Muller: angles cover only half a circle", "2 * math.pi * 2.0**-bits", "math.pi * 2.0**-bits"),
        ("only 32 of 53 bits are random", "(even << 21) | (odd >> 11)", "(even << 21)"),
        ("uniform numbers reach 1", "(word >> 53 - bits).to(dtype)", "word.to(dtype) * 2.0 ** (bits - 53)"),
        ("every draw is the first", "itertools.count()", "itertools.repeat(0)"),
        ("every chunk begins at block 0", "torch.arange(first, end,", "torch.arange(0, end - first,"),
    ],
    "metric/test_denoising.py": [
        ("gap: the variances of both sets are not added", "sum(apart) - (len(apart) - 1) * variance(both)", "0"),
        ("gap: no correction for few clusters", "count / (count - 1) * sums", "sums"),
    ],
    "metric/test_faults.py": [
        ("the interval is that of the same photographs", " * ((len(names) + k) / (len(names) - k)) ** 0.5", ""),
        ("the worst images are the mildest", "descending=high", "descending=not high"),
        ("the place is the mildest", "(far if high else -far).argmax()", "(far if high else -far).argmin()"),
        ("a grid has the side of its multiples", "max(kinds.get(kind, fault)", "min(kinds.get(kind, fault)"),
    ],
    "report/test_faults.py": [
        ("a fault without a treatment has one", "if faults and treatment(", "if False and treatment("),
        ("the frame is in another row", "images.shape[-2] + GAP) + top", "images.shape[-2]) + top"),
    ],
    "metric/test_referee.py": [
        ("the filters are known before the samples", 'generator_for("eye", seed)', 'generator_for("eye")'),
        ("each eye has a margin of its own", "rank.amin(dim=0)", "rank[0]"),
        ("tiles of the chosen photographs are on both sides", "= ~own[photograph]", "= ~chosen[draw]"),
        ("no standard error: few samples are near by chance", "value + ONE_SIDED * error", "value"),
        ("an image is its own pair", "xx / (n * (n - 1)) - yy", "xx / (n * n) - yy"),
    ],
    "metric/test_score.py": [
        ("reference: only the pool of the features is kept", "features[order], photo", "features[order][:POOL], photo"),
        ("reference: pairwise metrics use all features", "reference.features[:POOL]", "reference.features"),
        ("floor: the features of the reference are not divided", "cov=cov, features=rest", "cov=cov"),
    ],
    "metric/test_intervals.py": [
        ("energy distance: without terms of second order", "math.sqrt(2 * centred) / n", "0.0"),
        ("samples: tiles count as independent", "own[None])[1] ** 2", "torch.arange(len(own))[None])[1] ** 2"),
        ("reference: tiles count as independent", "real[None])[1]", "torch.arange(len(real))[None])[1]"),
        ("reference: the influence of the samples", "others = found if real is None", "others = found if 1"),
        ("reference: photographs in another order", "else photographs[order]\n", "else photographs\n"),
        ("samples: photographs in another order", "else photographs[order],", "else photographs[:POOL],"),
        ("samples: independent tiles count, too", " - error_of(one.influence) ** 2", ""),
        ("a normal quantile for few photographs", "width = quantile(min", "width = Z or quantile(min"),
        ("floor: other photographs count", "features=rest, photographs=None", "features=rest"),
        ("real images: tiles count as independent", "self.reference, name, {}, own)", "self.reference, name, {})"),
    ],
    "metric/test_classes.py": [
        ("the samples of all classes", "images[classes == i]", "images"),
        ("the real images of all classes", "{scorer.split: real}", "{scorer.split: every}"),
        (
            "a class without scores ends the command",
            "except UserError as error:  # the other",
            "except KeyError as error:  #",
        ),
    ],
    "study/test_study_report.py": [
        ("settings: other photographs count", "[score.metric] = score.paired", "[score.metric] = score")
    ],
}


def status(tests: str, sound: str = "", faulty: str = "") -> int:
    """pytest's status of these tests on a copy with the fault: 0 if all pass, 1 if one fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for each in ("diffusion", "conf", "tests", "docs"):
            shutil.copytree(ROOT / each, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        for path in (folder / "diffusion").rglob("*.py") if sound else ():
            path.write_text(path.read_text("utf-8").replace(sound, faulty), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{tests}"]
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode


def main() -> int:
    texts = [path.read_text("utf-8") for path in (ROOT / "diffusion").rglob("*.py")]
    chosen = {tests: faults for tests, faults in FAULTS.items() if not sys.argv[1:] or sys.argv[1] in tests}
    plan = [(tests, *fault) for tests, faults in chosen.items() for fault in (("no fault", "", ""), *faults)]
    wrong = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda each: status(each[0], *each[2:]), plan)
        for (tests, what, sound, _), found in zip(plan, results, strict=True):
            places = sum(text.count(sound) for text in texts) if sound else 1
            verdict = {0: "SURVIVED" if sound else "passes", 1: "caught"}.get(found, f"PYTEST ENDED WITH {found}")
            if places != 1 or (found == 1 and not sound):
                verdict = f"ITS TEXT OCCURS {places} TIMES" if sound else "FAILS WITHOUT A FAULT"
            wrong += verdict.isupper()
            print(f"{tests:34} {what:70} {verdict}", flush=True)
    print(f"{len(plan) - len(chosen)} faults, {wrong} not as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
