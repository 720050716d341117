"""The networks, which depend only on torch.

A network maps (x (B, C, H, W), label (B,), classes (B,) or None) to (B, out_channels, H, W). See `network.Network`.
"""

from diffusion.model.edm2 import EDM2UNet
from diffusion.model.mlp import MLP
from diffusion.model.transformer import DiT, JiT
from diffusion.model.unet import ADMUNet, MemoirUNet, UNet

__all__ = ["MLP", "ADMUNet", "DiT", "EDM2UNet", "JiT", "MemoirUNet", "UNet"]
