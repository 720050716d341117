"""Draw images from a trained model.

diffusion sample ckpt=RUN                                             36 images with the run's sampler
diffusion sample ckpt=… n=64 sampler=ddim sampler.steps=50 seed=0     another sampler
diffusion sample ckpt=… n=8 trajectory=true                           also save the denoising steps
diffusion sample ckpt=… then=[SUPER,SUPER2]                           enlarge the images by other models
"""

from diffusion.config.schema import Sample
from diffusion.runs.command import Command

main = Command("sample", Sample, __doc__, "diffusion.tasks.sample.draw_samples")
