"""The folder of a sweep."""

import contextlib
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from diffusion.config.quoting import hydra_value
from diffusion.runs.folder import SWEEP


class SweepFolder(Callback):
    """Hydra callback: create the folder of a sweep once, for all of its jobs, even if their names differ.

    It also sets Hydra's configuration, which the default name refers to and which Hydra sets only for each job, and
    writes multirun.yaml, by which a sweep's folder is recognized and which Optuna's sweeper does not write.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before the sweeper starts."""
        HydraConfig.instance().set_config(config)
        OmegaConf.set_readonly(config.hydra, None)  # which `set_config` has made read-only for the other callbacks
        folder = config.hydra.sweep.dir
        with read_write(config):
            config.hydra.sweep.dir = folder
            if not any(word.startswith("hydra.sweep.dir=") for word in config.hydra.overrides.hydra):
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={hydra_value(folder)}")  # for each job
        with contextlib.suppress(OSError):  # Hydra reports that it cannot write there
            Path(folder).mkdir(parents=True, exist_ok=True)
            OmegaConf.save(config, Path(folder) / SWEEP)
