"""A training run from its settings: build, check, fit, sample, score, report."""

from pathlib import Path

from diffusion.config.schema import Train
from diffusion.console import quiet_libraries
from diffusion.runs.record import RunRecord
from diffusion.training import signals
from diffusion.training.checks import check_recipe, check_trainer, make_scorer
from diffusion.training.clock import clock_of
from diffusion.training.ending import closing_logs, conclude, draw_last
from diffusion.training.module import Diffusion
from diffusion.training.prepared import Run, Spent, affordable
from diffusion.training.recipe import Recipe
from diffusion.training.resume import resumed_from, start_from
from diffusion.training.trainer import begin, callbacks_of, make_trainer, prepare_network, set_clock, together


@signals.catching()
def train(settings: Train, folder: Path, record: RunRecord | None) -> float | None:
    """Train with these settings and write all output to `folder`; returns the last `sweep.score` on the first process.

    Args:
        record: The run's record on the first process; None on the others.

    Raises UserError before training starts for problems that the user can fix.
    """
    run = prepare(settings, folder, record)
    with closing_logs(run):
        with together():
            start = None if run.resumed is None else run.resumed.path
            run.trainer.fit(run.module, datamodule=run.recipe.data, ckpt_path=start, weights_only=True)
            drawing, samples = draw_last(run)
        return None if record is None else conclude(run, drawing, samples)


def prepare(settings: Train, folder: Path, record: RunRecord | None) -> Run:
    """Build the parts of a run and check that they fit together, before anything is written."""
    spent = Spent()
    quiet_libraries()
    check_trainer(settings)
    resumed = resumed_from(settings, folder)
    trainer = make_trainer(settings, folder, resumed)
    recipe = Recipe(settings, folder)  # reads the images
    data, scorer = recipe.data, make_scorer(recipe, folder)
    clock, drawing = clock_of(settings, data, trainer.world_size, resumed), recipe.drawing()
    facts = recipe.facts(drawing, clock.total, resumed)
    module = Diffusion(recipe, clock, facts)
    check_recipe(module, data, drawing.in_training)
    if resumed is not None:
        resumed.check(module.state_dict(), data.keys, clock.total, folder)
    elif settings.init is not None:
        start_from(settings.init, module.denoiser.network, settings.model_dump(), data)
    prepare_network(module, settings, trainer)
    scored, shown = affordable(recipe, drawing, clock, trainer.world_size)
    scorer = scorer if scored else None
    set_clock(trainer, data, clock, resumed)
    run = Run(
        settings, folder, record, resumed, recipe, facts, clock, drawing, scorer, scored, shown, module, trainer, spent
    )
    trainer.callbacks.extend(callbacks_of(run))  # type: ignore[attr-defined]
    begin(run)
    return run
