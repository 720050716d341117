"""A Lightning + Hydra laboratory for denoising diffusion models on images.

process/   the mathematics: schedules, predictions, posteriors, objectives, samplers (torch only)
model/     the networks (torch only)
data/      photographs in: decoding, folders, the bundled landscapes, the LightningDataModule
metric/    feature extractors and torchmetrics: Fréchet distance, KID, denoising error
training/  the LightningModule, callbacks, checkpoint files
report/    figures, sample grids, the README of a run
train.py sample.py evaluate.py report/__main__.py: the commands, `python -m diffusion.<command>`
"""

__version__ = "0.1.0"
