"""Faults in the sharding of weights among processes."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import hydra.utils  # noqa: F401
import lightning.pytorch  # noqa: F401
import torchmetrics  # noqa: F401
from faults.fault import Fault

RUN = "reliability/test_sharded.py::test_the_largest_network_trains_draws_and_scores_the_same"
EVERY = "training/test_sharding.py::test_every_network_can_be_divided"
REFUSED = "training/test_sharding.py::test_what_needs_whole_weights_is_refused"

FAULTS = [
    Fault(
        "sharding: the norm is that of a part",
        "norm = get_total_norm(tensors)", "norm = get_total_norm([held(each) for each in tensors])", RUN,
    ),
    Fault(
        "sharding: dropout draws other masks", "register_forward_pre_hook(in_channels_last)", "requires_grad_()", RUN,
    ),
    Fault(
        "sharding: bytes are those of all processes",
        "return tensor.to_local() if isinstance(tensor, DTensor) else tensor", "return tensor", RUN,
    ),
    Fault("sharding: a scalar is left as it is", "if weight.ndim == 0:", "if False:", f"{EVERY}[edm2_tiny]"),
    Fault(
        "sharding: containers are not looked into", "if isinstance(child, CONTAINERS):", "if False:",
        f"{EVERY}[dit_tiny]",
    ),
    Fault("sharding: any average", "type(average) is not EMA:", "False:", REFUSED),
    Fault("sharding: any optimizer", "not in ELEMENTWISE:", "is None:", REFUSED),
    Fault("sharding: float16's scaler", 'if precision in ("16", "16-mixed")', "if False", REFUSED),
]  # fmt: skip
