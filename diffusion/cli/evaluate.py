"""Score a trained model, or a folder of images, against real images.

diffusion evaluate ckpt=RUN split=val                           score a run again
diffusion evaluate ckpt=… n=2048 sampler.steps=100              more samples, more steps
diffusion evaluate images=FOLDER split=test                     images from any source, e.g. SAMPLES/images, FILE.npz
diffusion evaluate ckpt=… reference=STATS.npz                   against published statistics (mu, sigma), or images
"""

from diffusion.config.schema import Evaluate
from diffusion.runs.command import Command

main = Command("evaluate", Evaluate, __doc__, "diffusion.tasks.evaluate.evaluate")
