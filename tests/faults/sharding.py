"""Faults in the sharding of weights among processes."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import hydra.utils  # noqa: F401
import lightning.pytorch  # noqa: F401
import torchmetrics  # noqa: F401
from faults.fault import Fault

RUN = "reliability/test_sharded.py::test_sharded_edm2_training_samples_and_scores_equal_ddp"
EVERY = "training/test_sharding.py::test_every_network_can_be_sharded"
REFUSED = "training/test_sharding.py::test_settings_unsupported_with_fsdp2_are_refused"

FAULTS = [
    Fault(
        "sharding: the norm of only the local part",
        "norm = get_total_norm(tensors)",
        "norm = get_total_norm([held(each) for each in tensors])",
        RUN,
    ),
    Fault(
        "sharding: inputs are not channels-last, so dropout masks differ",
        "register_forward_pre_hook(in_channels_last)",
        "requires_grad_()",
        RUN,
    ),
    Fault(
        "sharding: bytes of all processes are counted",
        "return tensor.to_local() if isinstance(tensor, DTensor) else tensor",
        "return tensor",
        RUN,
    ),
    Fault("sharding: a scalar parameter is not reshaped", "if weight.ndim == 0:", "if False:", f"{EVERY}[edm2_tiny]"),
    Fault(
        "sharding: modules inside containers are not found",
        "if isinstance(child, CONTAINERS):",
        "if False:",
        f"{EVERY}[dit_tiny]",
    ),
    Fault("sharding: an unsupported average is accepted", "type(average) is not EMA:", "False:", REFUSED),
    Fault("sharding: an unsupported optimizer is accepted", "not in ELEMENTWISE:", "is None:", REFUSED),
    Fault(
        "sharding: float16 with a loss scaler is accepted", 'if precision in ("16", "16-mixed")', "if False", REFUSED
    ),
]
