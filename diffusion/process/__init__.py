"""The mathematics of diffusion: torch, numpy and scipy, without Lightning and Hydra.

Read the modules in this order: schedule, prediction, denoiser, variance, timesteps, weighting, noise, objective,
grid, guidance, sampler, likelihood; then consistency, augmentation, editing, averaging.
"""
