"""Faults visible only on a device other than the CPU, and in skipped steps; see tests/training/test_device.py."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import hydra.utils  # noqa: F401
import lightning.pytorch  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import scipy.integrate  # noqa: F401
import torch_fidelity  # noqa: F401
import torchmetrics  # noqa: F401
from faults.fault import Fault

RUN = "test_a_run_from_training_to_scores_has_the_numbers_of_the_cpu"
STEP = "test_between_two_loggings_a_training_step_waits_for_nothing"
OBJECTIVE = "test_no_objective_waits_for_the_device"
SAMPLES = "test_samples_equal_those_of_the_cpu_and_no_step_waits"
SINGLE = "test_a_device_without_float64_works"
SCALER = "test_a_step_that_the_scaler_of_float16_skips_updates_nothing"
SKIP = "test_a_step_that_the_guard_skips_updates_nothing"
OVERFLOW = "test_a_gradient_that_always_overflows_ends_the_run"


def fault(what: str, sound: str, faulty: str, test: str) -> Fault:
    return Fault(what, sound, faulty, f"training/test_device.py::{test}")


FAULTS = [
    fault(
        "the average is left on the CPU", '        self.average.to(pl_module.device)\n',
        '', STEP,
    ),
    fault("the report's schedule is left there", "schedule.cpu(),", "schedule,", RUN),
    fault(
        "the reference is made on the CPU", '        self.scorer.extractor.to(pl_module.device)\n', '', RUN
    ),
    fault(
        "evaluations are counted there", "self.schedule = copy.deepcopy(schedule).cpu()", "self.schedule = schedule",
        f"{SAMPLES}[ddim]",
    ),
    fault("a sampler's clock is read", "full((1,), time", "full((), time", f"{SAMPLES}[ancestral]"),
    fault("a step's numbers are read at once", 'not in ("cpu", "mps")', '== "cuda"', STEP),
    fault("… before they have arrived", "self.arrived.synchronize()", "pass", STEP),
    fault(
        "places in a batch are copied there", "dtype=dtype, device=self.device)\n        return",
        "dtype=dtype).to(self.device)\n        return", f"{OBJECTIVE}[timesteps=stratified]",
    ),
    fault(
        "the rows' losses are read", "copy_(moved[:, 1:])", "copy_(moved[:, 1:].cpu())",
        f"{OBJECTIVE}[timesteps=loss_second_moment]",
    ),
    fault(
        "the rows' losses out of order", "triu(1)", "tril(-1)",
        "test_rows_keep_their_last_losses_in_order",
    ),
    fault("a sampler's times in float64", "= real_dtype(device)", "= torch.float64", f"{SINGLE}[ddim]"),
    fault(
        "tables in float64", "device=device, dtype=real_dtype(device))\n        return",
        "device=device, dtype=table.dtype)\n        return", f"{SINGLE}[ddim]",
    ),
    fault(
        "draws in float64", "real_dtype(self.device)\n        bits", "torch.float64\n        bits",
        f"{SINGLE}[timesteps=uniform]",
    ),
    fault(
        "sums of errors in bfloat16", "lambda x: x.to(fn(torch.empty_like(x)).device)", "fn",
        "test_the_sums_of_the_errors_stay_in_float64",
    ),
    fault(
        "a loss's weight in bfloat16", "(features * self.linear.weight).sum(dim=1)",
        "self.linear(features).squeeze(1)", "test_a_learned_weight_of_the_loss_is_not_rounded_to_bfloat16",
    ),
    fault(
        "a step left out moves the average", 'if not getattr(pl_module, "stepped", True):', "if False:", SCALER,
    ),
    fault("… moves the rate", "        if self.stepped:\n", "        if True:\n", SKIP),
    fault("… where there is no gradient", "given = any(", "given = True or any(", SKIP),
    fault("… by a fused optimizer", "= given and not (", "= given or (", f"{SCALER}[fused]"),
                fault("overflow without end", "elif scales(trainer):", "elif False:", OVERFLOW),
    fault(
        "several GPUs agree at once", 'trainer.world_size == 1 or trainer.strategy.root_device.type == "cpu"', "True",
        "test_several_gpus_agree_to_stop_without_waiting",
    ),
    fault(
        "any GPU's number will do", 'if kind == "cuda" and int', "if False and int",
        "test_a_gpu_that_is_not_there_is_refused",
    ),
    fault(
        "what MPS lacks is an error", 'os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")', "",
        "test_what_mps_lacks_is_computed_on_the_cpu",
    ),
]  # fmt: skip
