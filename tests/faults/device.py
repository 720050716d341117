"""Faults that only a device that is not the CPU would show, and steps that are none; tests/training/test_device.py."""

# Libraries are imported here, and not in each copy's process, for speed; nothing of the project's.
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
SAMPLES = "test_samples_are_those_of_the_cpu_and_no_step_waits"
SINGLE = "test_a_device_without_float64_will_do"
SCALER = "test_what_the_scaler_of_float16_leaves_out_is_no_step"
SKIP = "test_what_the_guard_leaves_out_is_no_step"
OVERFLOW = "test_a_gradient_that_always_overflows_ends_the_run"

MODULE = "training/module.py"
GUARD = "training/guard.py"
CALLBACKS = "training/callbacks.py"
RANDOMNESS = "randomness.py"
POSTERIOR = "process/sampler/posterior.py"
LOOP = "process/sampler/loop.py"
SCHEDULE = "process/schedule.py"


def fault(what: str, file: str, sound: str, faulty: str, test: str) -> Fault:
    return Fault(what, file, sound, faulty, f"training/test_device.py::{test}")


FAULTS = [
    fault(
        "the average is left on the CPU", "training/ema.py", "        super().setup(trainer",
        "        self._device = 'cpu'\n        super().setup(trainer", STEP,
    ),
    fault("the report's schedule is left there", "training/run.py", "schedule.cpu(),", "schedule,", RUN),
    fault(
        "the reference is made on the CPU", CALLBACKS, "self.extractor.to(pl_module.device))", "self.extractor)", RUN
    ),
    fault(
        "evaluations are counted there", "evaluation/cost.py", "copy.deepcopy(schedule).cpu()", "schedule",
        f"{SAMPLES}[ddim]",
    ),
    fault("a sampler's clock is read", POSTERIOR, "full((1,), time", "full((), time", f"{SAMPLES}[ancestral]"),
    fault("a step's numbers are read at once", GUARD, 'not in ("cpu", "mps")', '== "cuda"', STEP),
    fault("… before they have arrived", GUARD, "self.arrived.synchronize()", "pass", STEP),
    fault(
        "places in a batch are copied there", RANDOMNESS, "dtype=dtype, device=self.device)\n        return",
        "dtype=dtype).to(self.device)\n        return", f"{OBJECTIVE}[timesteps=stratified]",
    ),
    fault(
        "the rows' losses are read", "process/timesteps.py", "copy_(moved[:, 1:])", "copy_(moved[:, 1:].cpu())",
        f"{OBJECTIVE}[timesteps=loss_second_moment]",
    ),
    fault(
        "the rows' losses out of order", "process/timesteps.py", "triu(1)", "tril(-1)",
        "test_rows_keep_their_last_losses_in_order",
    ),
    fault("a sampler's times in float64", LOOP, "= real_dtype(device)", "= torch.float64", f"{SINGLE}[ddim]"),
    fault("tables in float64", SCHEDULE, "dtype=real_dtype(device)", "dtype=table.dtype", f"{SINGLE}[ddim]"),
    fault(
        "draws in float64", RANDOMNESS, "dtype=dtype) for g", "dtype=torch.float64) for g",
        f"{SINGLE}[timesteps=uniform]",
    ),
    fault(
        "sums of errors in bfloat16", "metric/denoising.py", "lambda x: x.to(fn(torch.empty_like(x)).device)", "fn",
        "test_the_sums_of_the_errors_stay_in_float64",
    ),
    fault(
        "a loss's weight in bfloat16", "process/objective.py", "(features * self.linear.weight).sum(dim=1)",
        "self.linear(features).squeeze(1)", "test_a_learned_weight_of_the_loss_is_not_rounded_to_bfloat16",
    ),
    fault("a step left out is counted", MODULE, "        if not self.stepped:\n", "        if False:\n", SCALER),
    fault("… moves the rate", MODULE, "        if self.stepped:\n", "        if True:\n", SKIP),
    fault("… where there is no gradient", MODULE, "given = any(", "given = True or any(", SKIP),
    fault("… by a fused optimizer", MODULE, "= given and not (", "= given or (", f"{SCALER}[fused]"),
    fault("… is logged as one", MODULE, "= max(0, loop._batches_that_stepped - 1)", "+= 0", SKIP),
    fault(
        "… is logged as one at the start", MODULE, "_that_stepped = self.trainer.global_step", "_that_stepped += 0",
        SKIP,
    ),
    fault("… leaves the end unvalidated", CALLBACKS, "self.last or (is_last and", "self.last or (False and", SKIP),
    fault("overflow without end", GUARD, "elif scales(trainer):", "elif False:", OVERFLOW),
    fault(
        "several GPUs agree at once", "training/signals.py",
        'trainer.world_size == 1 or trainer.strategy.root_device.type == "cpu"', "True",
        "test_several_gpus_agree_to_stop_without_waiting",
    ),
    fault(
        "any GPU's number will do", "evaluation/commands.py", 'if kind == "cuda" and int', "if False and int",
        "test_a_gpu_that_is_not_there_is_refused",
    ),
    fault(
        "what MPS lacks is an error", "__init__.py", 'os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")', "",
        "test_what_mps_lacks_is_computed_on_the_cpu",
    ),
]  # fmt: skip
