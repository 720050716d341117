"""A resumed Optuna study runs the trials that it lacks, not all of them once more.

    python -m diffusion.train -m hydra/sweeper=optuna 'optimizer.lr=tag(log, interval(1e-5, 1e-2))' \\
        hydra.sweeper.study_name=lr hydra.sweeper.storage=sqlite:///lr.db hydra.sweep.dir=outputs/lr

needs `pip install 'diffusion-experiments[sweep]'`. A trial minimises the last val/mse.
"""

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from diffusion.console import console


class ResumeStudy(Callback):
    """`hydra.sweeper.n_trials` includes the trials that the study has completed already, in whatever process.

    Hydra's plugin would run that many again, and a sampler with a seed would draw the first ones again. This is for a
    study with a `study_name` in a `storage`. A killed process leaves a trial that stays "running" there; it is ignored.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the sweeper is made."""
        sweeper = config.hydra.sweeper
        if "study_name" not in sweeper or not (sweeper.study_name and sweeper.storage):
            return
        import optuna

        try:
            trials = optuna.load_study(study_name=sweeper.study_name, storage=sweeper.storage).trials
        except KeyError:
            return  # a new one
        complete = sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials)
        with read_write(config):
            sweeper.n_trials = max(0, sweeper.n_trials - complete)
            if sweeper.sampler.get("seed") is not None:
                sweeper.sampler.seed += len(trials)
        console.print(f"study {sweeper.study_name}: {complete} trials are complete, {sweeper.n_trials} to go")
