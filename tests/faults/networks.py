"""Faults of the networks in diffusion/model; the tests in tests/model should notice each."""

from faults.fault import Fault

CONTRACT = "test_contract.py"
WEIGHTS = "test_diffusers_weights.py"
UNET = "test_unet.py"
ADM = "test_unet_adm.py"
EDM2 = "test_edm2.py"
DIT = "test_dit.py"
JIT = "test_jit.py"


def fault(what: str, file: str, sound: str, faulty: str, tests: str) -> Fault:
    """With `file` below diffusion/model, and `tests` below tests/model."""
    return Fault(what, f"model/{file}", sound, faulty, f"model/{tests}")


FAULTS = [
    fault("classes: none is class 0", "network.py", "full_like(label, self.classes,", "full_like(label, 0,", CONTRACT),
    fault("sizes: the width is not asked", "network.py", "if height % d or width % d", "if height % d", CONTRACT),
    fault("checkpointing: never", "network.py", "if self.checkpointing and", "if False and", CONTRACT),
    fault("checkpointing: other dropout", "network.py", "with examples(numbers)", "with examples(None)", CONTRACT),
    fault(
        "patch: the output's pixels are not put back", "unet.py", "pixel_shuffle(y,", "pixel_shuffle(y.flip(1),", UNET
    ),
    fault("ADM: scale without its 1", "unet_adm.py", "(1 + s) *", "s *", ADM),
    fault("ADM: DDPM's frequencies", "unet_adm.py", "shift=0, cosines_first", "shift=1, cosines_first", WEIGHTS),
    fault("ADM: residual branches start at random", "unet_adm.py", "nn.init.zeros_(parameter)", "pass", ADM),
    fault("EDM2: weights grow", "edm2.py", "module.force()", "pass", EDM2),
    fault("EDM2: normalised weights change their bits", "edm2.py", "abs() < 1e-5", "abs() < 0", EDM2),
    fault("EDM2: an earlier pass is spoilt", "edm2.py", "self.weight.data.copy_", "self.weight.copy_", EDM2),
    fault("EDM2: no pixel norm", "edm2.py", "x = unit(self.shortcut(x))", "x = self.shortcut(x)", EDM2),
    fault("EDM2: dot products for cosines", "edm2.py", "unit(qkv, [3])", "qkv", EDM2),
    fault("EDM2: skips count more", "edm2.py", "mp_cat(h, skip)", "torch.cat([h, 3 * skip], dim=1)", EDM2),
    fault("EDM2: shares of a concatenation", "edm2.py", "b * (c * t", "b * (c * (1 - t)", EDM2),
    fault("DiT: rows for columns", "dit.py", "[column.sin(), column.cos(), row", "[row.sin(), row.cos(), row", DIT),
    fault("DiT: a patch's pixels transposed", "dit.py", "(0, 5, 1, 3, 2, 4)", "(0, 5, 1, 4, 2, 3)", DIT),
    fault("DiT: gates start at random", "dit.py", ' or "modulation" in name', "", DIT),
    fault("DiT: sines first", "dit.py", "cosines_first=True", "cosines_first=False", WEIGHTS),
    fault("JiT: half a rotation", "jit.py", "a * sin + b * cos", "a * sin - b * cos", JIT),
    fault("JiT: keys as they are", "jit.py", "rotate(self.norm_k(k), cos, sin)", "rotate(k, cos, sin)", JIT),
    fault("JiT: the gate ungated", "jit.py", "F.silu(gate) * h", "F.silu(h) * gate", JIT),
    fault("weights: queries for keys", "diffusers.py", 'zip("qkv", tensor', 'zip("kqv", tensor', WEIGHTS),
    fault("weights: one block has the embedding", "diffusers.py", "for i in range(depth)}", "for i in (0,)}", WEIGHTS),
]
