"""A job of a search reports its score to Optuna at each validation, and ends early if it will not win."""

import os
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from diffusion.config.build import make
from diffusion.runs.folder import METRICS, Run, read_metrics
from diffusion.runs.processes import TRIAL
from diffusion.training.parts import Parts


class Pruning(Callback):
    """Ends the run if the pruner of its search says so; `reason` is then not empty."""

    reason = ""

    def __init__(self, run: Parts):
        self.run, self.reported = run, 0
        if run.record is not None:  # on the first process
            import optuna

            from diffusion.runs.search import place_of

            pruner = make(Run(run.folder).record["sweeper"]["pruner"], "hydra.sweeper.pruner")
            study = optuna.load_study(**place_of(run.folder.parent), pruner=pruner)
            self.trial = optuna.Trial(study, study.trials[int(os.environ[TRIAL])]._trial_id)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        name, total, stop = self.run.settings.sweep.scores[0], self.run.clock.total, False
        if self.run.record is not None and trainer.global_step < total:
            series = read_metrics(self.run.folder / METRICS).get(name)
            if series is not None and series.step[-1] > self.reported:
                self.reported = int(series.step[-1])
                self.trial.report(float(series.value[-1]), self.reported)
                stop = self.trial.should_prune()
        if trainer.strategy.reduce_boolean_decision(stop, all=False):
            trainer.should_stop = True
            self.reason = f"at step {trainer.global_step} of {total}, its {name} is too far behind in its search"
