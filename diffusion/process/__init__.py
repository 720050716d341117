"""The mathematics of diffusion; torch only. See the modules: schedule, prediction, denoiser, variance, timesteps,
objective, grid, sampler."""
