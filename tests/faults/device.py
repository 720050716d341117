"""Faults that appear only on devices other than the CPU, or in skipped steps; see tests/training/test_device.py."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import hydra.utils  # noqa: F401
import lightning.pytorch  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import scipy.integrate  # noqa: F401
import torch_fidelity  # noqa: F401
import torchmetrics  # noqa: F401
from faults.fault import Fault

RUN = "test_a_whole_run_on_another_device_gives_the_results_of_the_cpu"
STEP = "test_training_steps_between_logs_do_not_synchronize_with_the_device"
OBJECTIVE = "test_objectives_equal_the_cpu_without_device_synchronization"
SAMPLES = "test_samples_equal_the_cpu_without_device_synchronization"
SINGLE = "test_objectives_and_samplers_work_on_a_device_without_float64"
SCALER = "test_a_step_skipped_by_the_float16_grad_scaler_updates_nothing"
SKIP = "test_a_step_skipped_by_the_guard_updates_nothing"
GPUS = "training/test_gpus.py"
LEFT = f"{GPUS}::test_a_group_that_waits_for_a_dead_process_is_left"
REPORTED = f"{GPUS}::test_the_first_process_reports_a_lost_one_that_it_waits_for"
DAYS = f"{GPUS}::test_torchrun_processes_wait_for_days_while_the_first_one_prepares_the_images"
MOVED = f"{GPUS}::test_ddp_does_not_move_the_indices_of_a_batch_to_the_gpu"
PARALLEL = f"{GPUS}::test_parallel_jobs_use_different_gpus"
VISIBLE = f"{GPUS}::test_a_job_takes_only_gpus_that_are_visible_to_its_sweep"
ENDS = "test_a_process_of_a_run_ends_after_the_first_one_was_killed"
OVERFLOW = "test_a_gradient_that_always_overflows_ends_the_run"


def fault(what: str, sound: str, faulty: str, test: str) -> Fault:
    return Fault(what, sound, faulty, f"training/test_device.py::{test}")


FAULTS = [
    fault(
        "the averaged weights stay on the CPU",
        "        self.average.to(pl_module.device)\n",
        "",
        STEP,
    ),
    fault("the report's schedule stays on the device", "schedule.cpu(),", "schedule,", RUN),
    fault(
        "the reference features are computed on the CPU",
        "        scorer.extractor.to(trainer.strategy.root_device)\n",
        "        pass\n",
        RUN,
    ),
    fault(
        "evaluations are counted on the device",
        "self.schedule = copy.deepcopy(schedule).cpu()",
        "self.schedule = schedule",
        f"{SAMPLES}[ddim]",
    ),
    fault(
        "a scalar time waits for the device in a sampler", "full((1,), time", "full((), time", f"{SAMPLES}[ancestral]"
    ),
    fault("a step's numbers are read without delay", 'not in ("cpu", "mps")', '== "cuda"', STEP),
    fault("a step's numbers are read before they have arrived", "self.arrived.synchronize()", "pass", STEP),
    fault(
        "positions in a batch are copied to the device",
        "dtype=dtype, device=self.device)\n        return",
        "dtype=dtype).to(self.device)\n        return",
        f"{OBJECTIVE}[timesteps=stratified]",
    ),
    fault(
        "updating the rows' losses waits for the device",
        "copy_(moved[:, 1:])",
        "copy_(moved[:, 1:].cpu())",
        f"{OBJECTIVE}[timesteps=loss_second_moment]",
    ),
    fault(
        "the rows' losses are stored in the wrong order",
        "triu(1)",
        "tril(-1)",
        "test_the_loss_history_keeps_the_last_losses_in_order",
    ),
    fault(
        "a sampler's times are float64 on every device", "= real_dtype(device)", "= torch.float64", f"{SINGLE}[ddim]"
    ),
    fault(
        "schedule tables are float64 on every device",
        "device=device, dtype=real_dtype(device))\n        return",
        "device=device, dtype=table.dtype)\n        return",
        f"{SINGLE}[ddim]",
    ),
    fault(
        "uniform draws are float64 on every device",
        "real_dtype(self.device)\n        bits",
        "torch.float64\n        bits",
        f"{SINGLE}[timesteps=uniform]",
    ),
    fault(
        "sums of errors are converted to bfloat16",
        "lambda x: x.to(fn(torch.empty_like(x)).device)",
        "fn",
        "test_denoising_error_sums_stay_in_float64",
    ),
    fault(
        "the learned weight of the loss is rounded to bfloat16",
        "(features * self.weight).sum(dim=1)",
        "(features @ self.weight)",
        "test_learned_loss_weights_are_not_rounded_to_bfloat16",
    ),
    fault(
        "a skipped step moves the average",
        "if not pl_module.stepped:",
        "if False:",
        SCALER,
    ),
    fault("a skipped step advances the learning rate", "        if self.stepped:\n", "        if True:\n", SKIP),
    fault("a step without gradients counts as an update", "given = any(", "given = True or any(", SKIP),
    fault(
        "a step skipped by a fused optimizer counts as an update",
        "= given and not (",
        "= given or (",
        f"{SCALER}[fused]",
    ),
    fault("endless gradient overflows do not end the run", "elif scales(trainer):", "elif False:", OVERFLOW),
    fault(
        "several GPUs synchronise at every step to agree on stopping",
        'trainer.world_size == 1 or trainer.strategy.root_device.type == "cpu"',
        "True",
        "test_several_gpus_agree_to_stop_without_synchronization",
    ),
    fault(
        "a GPU number that does not exist is accepted",
        'if kind == "cuda" and int',
        "if False and int",
        "test_a_nonexistent_gpu_is_refused",
    ),
    fault(
        "operations missing on MPS are an error",
        'os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")',
        "",
        "test_the_mps_fallback_to_the_cpu_is_enabled",
    ),
    fault(
        "hidden labels are uploaded with a wait",
        "to_device(torch.from_numpy(dropped), self.device)",
        "torch.tensor(dropped, device=self.device)",
        f"{STEP}[True]",
    ),
    fault(
        "the norm of a fused optimizer's scaled gradients is logged",
        "self.norm = self.norm / scaler.get_scale()",
        "pass",
        "test_the_gradient_norm_and_clipping_with_a_fused_optimizer_and_float16",
    ),
    fault(
        "the guard checks steps that the gradient scaler has skipped",
        'if stepped or (scales(trainer) and self.action != "skip"):',
        "if stepped or scales(trainer):",
        "test_the_guard_leaves_an_infinite_loss_to_the_grad_scaler_if_it_may_skip",
    ),
    fault(
        "restored step counts stay where they were saved",
        'step.to(weight.device if on_device else "cpu")',
        "step",
        "test_step_counts_are_moved_to_where_a_resumed_optimizer_needs_them",
    ),
    fault(
        "restored step counts are not moved",
        "        match_devices(optimizer)\n",
        "",
        "test_step_counts_are_moved_once_the_settings_of_a_resumed_run_are_known",
    ),
    Fault("a process of a killed run continues", "            _watch_launcher(_leave)\n", "", f"{GPUS}::{ENDS}"),
    Fault(
        "a process of a run in a sweep ends, because the sweep did not start it",
        ", LAUNCHER: str(os.getpid()),",
        ",",
        f"{GPUS}::test_processes_of_a_run_know_the_one_that_started_them",
    ),
    Fault(
        "the weaker model is gathered on the CPU",
        "    module.to(module.trainer.strategy.root_device)  # Lightning",
        "    # Lightning",
        f"{GPUS}::test_the_weaker_model_is_gathered_on_the_device",
    ),
    Fault(
        "each measured call waits for the device",
        "            calls *= 2\n",
        "            pass\n",
        "training/test_utilization.py::test_waiting_for_a_device_hardly_counts",
    ),
    Fault("a group that waits for a dead process is not left", "if leaving.is_alive():", "if False:", LEFT),
    Fault("a process that leaves its group ends as if complete", "leave_group(CLOSING, error.status)", "pass", LEFT),
    Fault("a lost process is not recorded", '"failed", "reason": reason}', '"failed"}', REPORTED),
    Fault("torchrun's processes wait for five minutes", ", timeout=PREPARING", "", DAYS),
    Fault("DDP moves the indices of a batch", "def determine_ddp_device_ids", "def determined", MOVED),
    Fault("parallel jobs use the first GPU", "[*free][:wanted]", "names[:wanted]", PARALLEL),
    Fault("a job takes GPUs that are not visible", 'os.environ.get("CUDA_VISIBLE_DEVICES") or', "None or", VISIBLE),
    Fault(
        "features are computed in TF32",
        'enabled=False), products("highest"):',
        "enabled=False):",
        "metric/test_features.py::test_features_are_computed_with_exact_products_in_any_run",
    ),
    Fault(
        "features are computed by convolutions in TF32",
        '"highest": ("ieee", "ieee",',
        '"highest": ("ieee", "tf32",',
        "metric/test_features.py::test_features_are_computed_with_exact_products_in_any_run",
    ),
    Fault(
        "commands do not multiply as the run did",
        "    set_precision(precision_of(restored))\n",
        "",
        "evaluation/test_inherited_settings.py::test_matrices_are_multiplied_as_in_the_run",
    ),
]
