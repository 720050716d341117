"""A Lightning + Hydra laboratory for denoising diffusion models on images.

process/   the mathematics: schedules, predictions, posteriors, objectives, samplers (torch only)
model/     the networks (torch only)
data/      photographs in: decoding, folders, the bundled landscapes, the LightningDataModule
metric/    feature extractors and scores with intervals; denoising error; the audit for copies
training/  the LightningModule, callbacks, checkpoint files, signals, guard
report/    figures, sample grids, the README of a run, tables of sweeps
train.py sample.py evaluate.py study.py compare.py status.py export.py, and report/: the commands,
`python -m diffusion.<command>`, each with --help
"""

import os

# What Apple's MPS lacks, such as the normal distribution's quantile, is computed on the CPU. Torch reads this when it
# is imported.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

__version__ = "0.1.0"
