"""Faults in the networks of diffusion/model. The tests in tests/model must detect each of them."""

from faults.fault import Fault

CONTRACT = "test_contract.py"
WEIGHTS = "test_diffusers_weights.py"
UNET = "test_unet.py"
ADM = "test_unet_adm.py"
EDM2 = "test_edm2.py"
DIT = "test_dit.py"
JIT = "test_jit.py"


def fault(what: str, sound: str, faulty: str, tests: str) -> Fault:
    """A fault that tests/model/`tests` must detect."""
    return Fault(what, sound, faulty, f"model/{tests}")


FAULTS = [
    fault("classes: None means class 0", "full_like(label, self.classes,", "full_like(label, 0,", CONTRACT),
    fault("sizes: the width is not checked", "if height % d or width % d", "if height % d", CONTRACT),
    fault("checkpointing: never used", "if self.checkpointing and", "if False and", CONTRACT),
    fault(
        "checkpointing: recomputed with other dropout masks", "with examples(numbers)", "with examples(None)", CONTRACT
    ),
    fault("patch: output channels in another order", "pixel_shuffle(y,", "pixel_shuffle(y.flip(1),", UNET),
    fault("time embedding: any width", "if width % 2 or width // 2 <= shift:", "if False:", UNET),
    fault("group norm: trains in bfloat16", "F.group_norm(x.float(),", "F.group_norm(x,", UNET),
    fault("group norm: also samples in float32", '"cpu" and torch.is_grad_enabled()', '"cpu"', UNET),
    fault("ADM: s instead of 1 + s", "(1 + s) *", "s *", ADM),
    fault("ADM: the frequencies of DDPM", "frequency_shift = 0", "frequency_shift = 1", WEIGHTS),
    fault(
        "ADM: residual branches are not initialised to zero",
        "(ends).parameters():\n            nn.init.zeros_(parameter)",
        "(ends).parameters():\n            pass",
        ADM,
    ),
    fault("EDM2: weights are not normalised in training", "module.force()", "pass", EDM2),
    fault("EDM2: normalised weights change their bits", "abs() < 1e-5", "abs() < 0", EDM2),
    fault("EDM2: an earlier forward pass becomes invalid", "self.weight.data.copy_", "self.weight.copy_", EDM2),
    fault("EDM2: no pixel norm", "x = unit(self.shortcut(x))", "x = self.shortcut(x)", EDM2),
    fault("EDM2: q, k and v are not normalised", "unit(qkv, [3])", "qkv", EDM2),
    fault("EDM2: skip connections are weighted more", "mp_cat(h, skip)", "torch.cat([h, 3 * skip], dim=1)", EDM2),
    fault("EDM2: wrong shares of a concatenation", "b * (c * t", "b * (c * (1 - t)", EDM2),
    fault("DiT: rows and columns swapped", "[column.sin(), column.cos(), row", "[row.sin(), row.cos(), row", DIT),
    fault("DiT: transposed pixels in a patch", "(0, 5, 1, 3, 2, 4)", "(0, 5, 1, 4, 2, 3)", DIT),
    fault("DiT: modulations are not initialised to zero", ' or "modulation" in name', "", DIT),
    fault(
        "DiT: sines before cosines in the time embedding",
        "classes, cosines_first=True",
        "classes, cosines_first=False",
        WEIGHTS,
    ),
    fault("JiT: wrong sign in the rotation", "a * sin + b * cos", "a * sin - b * cos", JIT),
    fault("JiT: keys are not normalised", "rotate(self.norm_k(k), cos, sin)", "rotate(k, cos, sin)", JIT),
    fault("JiT: silu applied to the other half", "F.silu(gate) * h", "F.silu(h) * gate", JIT),
    fault("diffusers: queries and keys swapped", 'zip("qkv", tensor', 'zip("kqv", tensor', WEIGHTS),
    fault("diffusers: only one block gets the time embedding", "for i in range(depth)}", "for i in (0,)}", WEIGHTS),
]
