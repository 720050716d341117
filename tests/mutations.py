"""Plant faults in a copy of the mathematics, one at a time: the tests must catch each.

    python tests/mutations.py

A fault is a text that occurs once in a file of diffusion/process, what it becomes, and the tests that should object.
Prints a table; exits with 1 if a fault survives, or if the tests object to the sound copy.
"""

import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import diffusers  # here, and not in each copy's process, for speed; nothing of the project's
import hydra.utils  # noqa: F401
import pytest
import scipy.integrate
import scipy.special  # noqa: F401
import torch

ROOT = Path(__file__).resolve().parent.parent

PYC = shutil.ignore_patterns("__pycache__")

POSTERIOR = "sampler/posterior.py"
MULTISTEP = "sampler/multistep.py"
RUNGE_KUTTA = "sampler/runge_kutta.py"
LOOP = "sampler/loop.py"

PARITY = "test_sampler_parity.py"
BASIC = "test_ancestral_ddim.py"
SAMPLERS = "test_samplers.py"
MEMOIR = "test_memoir.py"
SCHEDULE = "test_schedule.py"
PREDICTION = "test_prediction.py"
WEIGHTING = "test_weighting.py"
TIMESTEPS = "test_timesteps.py"
OBJECTIVE = "test_objective.py"
LIKELIHOOD = "test_likelihood.py"


class Fault(NamedTuple):
    """In `file`, `sound` becomes `faulty`; `tests` (a file, or file::test) of tests/process should notice."""

    what: str
    file: str
    sound: str
    faulty: str
    tests: str


FAULTS = [
    Fault("DDIM: η for η²", POSTERIOR, "self.eta**2 *", "self.eta *", BASIC),
    Fault("DDIM: r for r²", POSTERIOR, "s.sigma**2 * -math.expm1(2 * (", "s.sigma**2 * -math.expm1((", BASIC),
    Fault("ancestral: σ_t for σ_s", POSTERIOR, "s.sigma * r * now", "t.sigma * r * now", BASIC),
    Fault("ancestral: variance for deviation", POSTERIOR, "log_variance / 2", "log_variance", BASIC),
    Fault("reverse diffusion: α_s/α_t", POSTERIOR, "2 - t.alpha / s.alpha", "2 - s.alpha / t.alpha", PARITY),
    Fault("reverse diffusion: score's sign", POSTERIOR, "* x_t - G**2", "* x_t + G**2", PARITY),
    Fault("Langevin: √ε for √2ε", POSTERIOR, "(2 * size).sqrt()", "size.sqrt()", PARITY),
    Fault("exponential: sign of the x0 term", MULTISTEP, "s.alpha * -math", "s.alpha * math", PARITY),
    Fault("exponential: σ_t for σ_s in the noise", MULTISTEP, "mean + s.sigma", "mean + t.sigma", PARITY),
    Fault("exponential: noise without its factor 2", MULTISTEP, "(-2 * eta * h)", "(-eta * h)", PARITY),
    Fault("multistep: moments off by one", MULTISTEP, "powers + 2, -H", "powers + 1, -H", PARITY),
    Fault(
        "2M: one estimate too many",
        MULTISTEP,
        'attrgetter("lam"), t, s, past[: self.order - 1]',
        'attrgetter("lam"), t, s, past[: self.order]',
        PARITY,
    ),
    Fault("2M: points on the wrong side", MULTISTEP, "(axis(p.t) - start)", "(start - axis(p.t))", PARITY),
    Fault("2S: D at the wrong end", MULTISTEP, "D, middle, s, self.eta", "D, t, s, self.eta", PARITY),
    Fault(
        "UniPC: the uncorrected x is remembered",
        MULTISTEP,
        "estimate)\n        return self.solve(now,",
        "estimate)\n        now = there if past else now\n        return self.solve(now,",
        PARITY,
    ),
    Fault("UniPC: past off by one", MULTISTEP, "past[1 : self.order]", "past[2 : self.order]", PARITY),
    Fault("Adams–Bashforth: sign", MULTISTEP, "(s.sigma - s.alpha *", "(s.sigma + s.alpha *", PARITY),
    Fault("Heun: the second slope alone", RUNGE_KUTTA, "(now.estimate.eps + there.eps) / 2", "there.eps", PARITY),
    Fault("churn: less noise for more", RUNGE_KUTTA, "t.lam - math.log1p", "t.lam + math.log1p", PARITY),
    Fault("midpoint: u for 1 − u", RUNGE_KUTTA, "math.log((1 - u) / u)", "math.log(u / (1 - u))", PARITY),
    Fault(
        "Dormand–Prince: stages at the step's end",
        RUNGE_KUTTA,
        "u + float(c) * h",
        "u + h",
        f"{SAMPLERS}::test_probability_flow_reaches_a_gaussian",
    ),
    Fault(
        "Dormand–Prince: one step size for the batch",
        RUNGE_KUTTA,
        "h = h * (0.9 * ratio**-0.2)",
        "h = h * (0.9 * ratio.max() ** -0.2)",
        f"{SAMPLERS}::test_an_image_depends_on_its_own_seed_alone",
    ),
    Fault("loop: σ alone at the start", LOOP, "math.hypot(times[0].alpha, times[0].sigma)", "times[0].sigma", PARITY),
    Fault("loop: the oldest point is kept", LOOP, "[now, *past[: MEMORY - 1]]", "[*past, now][:MEMORY]", PARITY),
    Fault("loop: half log-SNR without the half", LOOP, "log_snr(t) / 2]", "log_snr(t)]", BASIC),
    Fault(
        "variance: σ_s for σ_t",
        "variance.py",
        "torch.log(sigma_t**2 * rest)",
        "torch.log(schedule(s)[1] ** 2 * rest)",
        BASIC,
    ),
    Fault("threshold: eps doesn't follow", "denoiser.py", "_replace(x0=x0, eps=eps)", "_replace(x0=x0)", BASIC),
    Fault("dynamic threshold: below 1", "denoiser.py", ".clamp(min=1)", "", "test_sampler_configs.py"),
    Fault("leading grid: row 0 evaluated", "grid.py", "rows = 1 + torch.arange", "rows = torch.arange", "test_grid.py"),
    Fault(
        "Karras grid: ρ for 1/ρ",
        "grid.py",
        "lambda v: v ** (1 / rho), lambda u: u**rho",
        "lambda v: v**rho, lambda u: u ** (1 / rho)",
        "test_grid.py",
    ),
    Fault(
        "mixture: α² for α",
        "oracle.py",
        "alpha * self.variances / total",
        "alpha**2 * self.variances / total",
        "test_oracle.py",
    ),
    Fault(
        "v: the sign of x0",
        "prediction.py",
        "return -sigma_t, alpha_t",
        "return sigma_t, alpha_t",
        f"{SAMPLERS}::test_a_compiled_network_gives_the_same_images",
    ),
    Fault(
        "table: ᾱ_i − 1",
        "schedule.py",
        "torch.log1p(-betas).cumsum(0)])",
        "torch.log1p(-betas.roll(1)).cumsum(0)])",
        MEMOIR,
    ),
    Fault(
        "table: float32 rows are not found",
        "schedule.py",
        "torch.where(near, gap, 0)",
        "torch.where(near, 0, gap)",
        SCHEDULE,
    ),
    Fault(
        "table: the row's slope is lost",
        "schedule.py",
        "torch.where(near, gap, 0).detach()",
        "torch.where(near, gap, 0)",
        SCHEDULE,
    ),
    Fault(
        "table: time without its first interval",
        "schedule.py",
        "torch.where(log_snr > rows[0], below,",
        "torch.where(log_snr > rows[0], between,",
        SCHEDULE,
    ),
    Fault(
        "table: time without its last interval", "schedule.py", "< rows[-2], above,", "< rows[-2], between,", SCHEDULE
    ),
    Fault(
        "half precision rounds the tables",
        "schedule.py",
        "self._buffers[name] = table.to(device=device, dtype=dtype)",
        "self._buffers[name] = fn(table)",
        SCHEDULE,
    ),
    Fault(
        "zero SNR: scaled from row 0",
        "schedule.py",
        "* alpha[1] / (alpha[1] - alpha[-1])",
        "/ (1 - alpha[-1])",
        SCHEDULE,
    ),
    Fault("shift: not doubled in log-SNR", "schedule.py", "- 2 * math.log(shift)", "- math.log(shift)", SCHEDULE),
    Fault(
        "VP: β_max for β_max − β_min",
        "schedule.py",
        "(self.beta_max - self.beta_min) * t**2",
        "self.beta_max * t**2",
        SCHEDULE,
    ),
    Fault(
        "sub-VP: sigma as VP's",
        "schedule.py",
        "-torch.expm1(-integral)\n\n    def time(self, log_snr: Tensor) -> Tensor:\n        sigma",
        "torch.sqrt(-torch.expm1(-integral))\n\n    def time(self, log_snr: Tensor) -> Tensor:\n        sigma",
        SCHEDULE,
    ),
    Fault("sde: g² without f", "schedule.py", "(d_sigma - f * sigma)", "d_sigma", SCHEDULE),
    Fault("cosine: shift of sigma²", "schedule.py", "self.shift * torch.sin", "self.shift**0.5 * torch.sin", SCHEDULE),
    Fault(
        "solve: the sign of the x0 row",
        "prediction.py",
        "(b / det, -sigma_t / det)",
        "(b / det, sigma_t / det)",
        PREDICTION,
    ),
    Fault("EDM: σ_d² for σ_d", "prediction.py", "sigma_t / (n * self.sigma_data)", "sigma_t / n", PREDICTION),
    Fault("EDM: c_noise of σ²", "prediction.py", "log_snr(t) / 8", "log_snr(t) / 4", PREDICTION),
    Fault("zero terminal SNR is not refused", "prediction.py", "< 1e-6", "< 0", PREDICTION),
    Fault("label off by one", "prediction.py", "1000 * t - 1", "1000 * t", MEMOIR),
    Fault(
        "small variance: σ_t for σ_s",
        "variance.py",
        "torch.log(sigma_s**2 * rest)",
        "torch.log(schedule(t)[1] ** 2 * rest)",
        MEMOIR,
    ),
    Fault("small variance: −∞ at the last step", "variance.py", "t.clamp(max=0.5), s)", "s, s)", "test_variance.py"),
    Fault("learned range: v for (v + 1)/2", "variance.py", "(spread + 1) / 2", "spread", "test_variance.py"),
    Fault(
        "KL: the other way round",
        "variance.py",
        "log_ratio = log_variance1 - log_variance2",
        "log_ratio = log_variance2 - log_variance1",
        "test_variance.py",
    ),
    Fault("weights: q for q²", "weighting.py", "weight * q**2", "weight * q", WEIGHTING),
    Fault("min-SNR: the largest for the least", "weighting.py", "clamp(max=gamma)", "clamp(min=gamma)", WEIGHTING),
    Fault("sigmoid: sign of log-SNR", "weighting.py", "bias - log_snr", "bias + log_snr", WEIGHTING),
    Fault("vlb: (1 − r²) for its square", "weighting.py", "(alpha_s * rest) ** 2", "alpha_s**2 * rest", WEIGHTING),
    Fault("importance: 1/|dt/du|", "timesteps.py", "slope.abs()", "1 / slope.abs()", TIMESTEPS),
    Fault(
        "rows: from 0",
        "timesteps.py",
        "(1 + torch.floor(u * steps)) / steps",
        "torch.floor(u * steps) / steps",
        TIMESTEPS,
    ),
    Fault(
        "log-normal: beyond the schedule's end",
        "timesteps.py",
        "_inside(u) * torch.special.ndtr(largest)",
        "_inside(u)",
        TIMESTEPS,
    ),
    Fault("loss-aware: importance p", "timesteps.py", "1 / (steps * p[i])", "steps * p[i]", TIMESTEPS),
    Fault("loss-aware: rows off by one", "timesteps.py", ".round().long() - 1", ".round().long() - 2", TIMESTEPS),
    Fault(
        "loss-aware: first moment",
        "timesteps.py",
        "losses.square().mean(dim=1).sqrt()",
        "losses.square().mean(dim=1)",
        TIMESTEPS,
    ),
    Fault("hybrid: the mean is not detached", "objective.py", "y=trial.y.detach()", "y=trial.y", OBJECTIVE),
    Fault("vlb: without T", "objective.py", "steps * bound_term(", "bound_term(", OBJECTIVE),
    Fault("uncertainty: −u", "objective.py", "u.exp() + u)", "u.exp() - u)", OBJECTIVE),
    Fault("objective: importance left out", "objective.py", '"loss": importance * term', '"loss": term', OBJECTIVE),
    Fault("decoder: the memoir's misprint at δ₋", "likelihood.py", "-torch.inf, low)", "torch.inf, low)", LIKELIHOOD),
    Fault(
        "decoder: the lowest level is bounded",
        "likelihood.py",
        "x0 < -1 + 1 / 255, -torch.inf, low",
        "x0 < -2, -torch.inf, low",
        LIKELIHOOD,
    ),
    Fault("decoder: half the interval", "likelihood.py", "(-1 / 255, 1 / 255)", "(-1 / 510, 1 / 510)", LIKELIHOOD),
    Fault("bound: α_t for α_s", "likelihood.py", "alpha_s, _ = schedule(s)", "alpha_s, _ = schedule(t)", LIKELIHOOD),
    Fault("flow: the divergence's sign", "likelihood.py", "-(log_prior + change)", "-(log_prior - change)", LIKELIHOOD),
    Fault("flow: no dequantisation's volume", "likelihood.py", " - math.log2(2 / 255)", "", LIKELIHOOD),
    Fault(
        "flow: half the change of variables", "likelihood.py", "slope / rate, x0", "slope / rate / 2, x0", LIKELIHOOD
    ),
]


def check(fault: Fault | None) -> tuple[bool, float]:
    """Whether the tests object to a copy with the fault (None: without one), and the seconds it took."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("errors.py", "paths.py", "randomness.py", "__init__.py", "process"):
            source, target = ROOT / "diffusion" / name, copy / "diffusion" / name
            target.parent.mkdir(exist_ok=True)
            shutil.copytree(source, target, ignore=PYC) if source.is_dir() else shutil.copy(source, target)
        shutil.copytree(ROOT / "conf", copy / "conf")
        shutil.copytree(ROOT / "tests" / "process", copy / "tests" / "process", ignore=PYC)
        shutil.copy(ROOT / "pyproject.toml", copy)
        tests = {fault.tests} if fault else {each.tests for each in FAULTS}
        if fault:
            path = copy / "diffusion" / "process" / fault.file
            text = path.read_text(encoding="utf-8")
            if text.count(fault.sound) != 1:
                raise RuntimeError(
                    f"{fault.what}: {fault.sound!r} occurs {text.count(fault.sound)} times in {fault.file}"
                )
            path.write_text(text.replace(fault.sound, fault.faulty), encoding="utf-8")
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        with contextlib.redirect_stdout(io.StringIO()):
            code = pytest.main(
                ["-x", "-q", "-p", "no:cacheprovider", *(f"tests/process/{name}" for name in sorted(tests))]
            )
        loaded = Path(sys.modules["diffusion"].__file__ or "")
        if copy.resolve() not in loaded.resolve().parents or code not in (0, 1):
            raise RuntimeError(f"pytest ended with {code}, with diffusion from {loaded}")
        os.chdir(ROOT)
    return code == 1, time.monotonic() - started


def main() -> int:
    torch.set_num_threads(1)  # forked processes must not inherit a pool of threads
    for name in ("DDPMScheduler", "DDIMScheduler", "UniPCMultistepScheduler"):
        getattr(diffusers, name)
    plan = [None, *FAULTS]
    survived = []
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        for fault, (caught, seconds) in zip(plan, pool.imap(check, plan), strict=True):
            expected = caught == (fault is not None)
            verdict = ("caught" if caught else "SURVIVED") if fault else ("OBJECTED TO" if caught else "passes")
            print(f"{fault.what if fault else 'no fault':50} {verdict:12} {seconds:5.1f} s", flush=True)
            survived += [] if expected else [fault]
    print(f"{len(FAULTS)} faults, {len(survived)} not as they should be")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
