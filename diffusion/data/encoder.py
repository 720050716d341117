"""Encoders, under the names by which recipes and files of version 1.0 call them."""

from diffusion.kinds.encoder import VAE, Encoder, small

__all__ = ["VAE", "Encoder", "small"]
