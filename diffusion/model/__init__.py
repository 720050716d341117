"""The networks, which depend only on torch.

A network maps (x (B, C, H, W), label (B,)) to (B, out_channels, H, W). Its attribute `downsampling` divides H and W.
"""

from diffusion.model.unet import UNet
from diffusion.model.unet_memoire import MemoirUNet

__all__ = ["MemoirUNet", "UNet"]
