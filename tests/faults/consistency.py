"""Faults in consistency tuning and its sampler; tests/process/test_consistency.py must detect each of them."""

from faults.fault import Fault

RUN = "training/test_consistency_run.py"


def fault(what: str, sound: str, faulty: str, tests: str = "process/test_consistency.py") -> Fault:
    """A fault that the tests of consistency must detect."""
    return Fault(what, sound, faulty, tests)


FAULTS = [
    fault(
        "pair: gradients flow through the target",
        "with torch.no_grad(), rewinding(x0.device):",
        "with rewinding(x0.device):",
    ),
    fault(
        "pair: different noise at r",
        "target = denoiser(diffuse(schedule, x0, eps, r), r",
        "target = denoiser(diffuse(schedule, x0, eps.roll(1, 0), r), r",
    ),
    fault(
        "pair: x_r is evaluated at time t",
        "diffuse(schedule, x0, eps, r), r, **conditions",
        "diffuse(schedule, x0, eps, r), t, **conditions",
    ),
    fault("pair: the target is computed without conditions", "eps, r), r, **conditions)", "eps, r), r)"),
    fault("pair: different dropout masks", "with torch.no_grad(), rewinding(x0.device):", "with torch.no_grad():"),
    fault(
        "r = 0: the estimate instead of the image",
        "target = torch.where(expand(noisy, x0).bool(), target, x0)",
        "pass",
    ),
    fault(
        "levels: σ² instead of σ",
        "level = torch.exp(-schedule.log_snr(t) / 2)",
        "level = torch.exp(-schedule.log_snr(t))",
    ),
    fault(
        "levels: r is computed from the wrong noise level",
        "schedule.time(-2 * lower.log())",
        "schedule.time(-lower.log())",
    ),
    fault("levels: r can become negative", "(1 - n / self.q**self.stage).clamp(min=0)", "(1 - n / self.q**self.stage)"),
    fault("n: grows with t", "torch.sigmoid(-self.b * level)", "torch.sigmoid(self.b * level)"),
    fault("n: without the term 1", "n = 1 + self.k *", "n = self.k *"),
    fault(
        "stages: one too early",
        "1 + min(step * self.stages // total, self.stages - 1)",
        "2 + min(step * self.stages // total, self.stages - 1)",
    ),
    fault(
        "stages: beyond the last",
        "1 + min(step * self.stages // total, self.stages - 1)",
        "1 + step * self.stages // total",
    ),
    fault(
        "stages: rounded with the weights", "torch.ones((), dtype=torch.long), persistent", "torch.ones(()), persistent"
    ),
    fault(
        "stages: Uncertainty does not pass the step on", "        self.objective.begin(step, total)\n", "        pass\n"
    ),
    fault("weight: 1/t instead of 1/(t − r)", "/ (level - lower).to(x0.dtype)", "/ level.to(x0.dtype)"),
    fault("weight: none", "/ (level - lower).to(x0.dtype)", ""),
    fault("pseudo-Huber: twice as large", "(torch.sqrt(square + c**2) + c)", "torch.sqrt(square + c**2)"),
    fault(
        "pseudo-Huber: sum over pixels instead of the mean",
        "return (x - y).square().flatten(1).mean(dim=1)",
        "return (x - y).square().flatten(1).sum(dim=1)",
    ),
    fault("weight: without importance", '{"loss": share * term', '{"loss": term'),
    fault("prediction of x0: not refused", "if float(q.abs()) > 0.1:", "if False:"),
    fault(
        "sampler: reuses the estimated noise instead of fresh noise",
        "x0 + s.sigma * streams.normal_like(x_t)), now",
        "x0 + s.sigma * now.estimate.eps), now",
    ),
    fault("sampler: x0 is not scaled", "x0 = s.alpha * now.estimate.x0", "x0 = now.estimate.x0"),
    fault(
        "sampler: noise remains in the final images",
        "(x0 if s.sigma == 0 else x0 + s.sigma *",
        "(x0 + max(s.sigma, 0.01) *",
    ),
    fault(
        "grid: the last step starts at row 1 of the table",
        "sigma_min: Level | None = 0.821",
        "sigma_min: Level | None = None",
    ),
    fault(
        "run: the objective does not receive the step",
        "        self.objective.begin(self.trainer.global_step, self.clock.total)\n",
        "",
        RUN,
    ),
]
