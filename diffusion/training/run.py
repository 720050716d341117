"""A training run from its settings: build, check, fit, sample, score, report."""

from pathlib import Path

from diffusion.config.schema import Train
from diffusion.console import quiet_libraries
from diffusion.runs.record import RunRecord
from diffusion.training import processes, signals
from diffusion.training.checks import check_recipe, check_sweep_score, check_trainer, make_scorer
from diffusion.training.clock import check_batch, clock_of
from diffusion.training.ending import closing_logs, conclude, draw_last
from diffusion.training.initial import start_from
from diffusion.training.module import Diffusion
from diffusion.training.recipe import Recipe
from diffusion.training.resume import resumed_from
from diffusion.training.saving import Checkpoints
from diffusion.training.timing import Spent, affordable
from diffusion.training.trainer import (
    Run,
    callbacks_of,
    dashboards,
    make_callbacks,
    make_trainer,
    prepare_network,
    set_clock,
)  # fmt: skip


@signals.catching()
def train(settings: Train, folder: Path, record: RunRecord | None) -> float | None:
    """Train with these settings and write all output to `folder`; returns the last `sweep.score` on the first process.

    Args:
        record: The run's record on the first process; None on the others.

    Raises UserError before training starts for problems that the user can fix.
    """
    run = prepare(settings, folder, record)
    with closing_logs(run):
        with processes.together():
            run.trainer.fit(run.module, datamodule=run.recipe.data, ckpt_path=run.start, weights_only=True)
            last = draw_last(run)
        return None if record is None else conclude(run, last)


def prepare(settings: Train, folder: Path, record: RunRecord | None) -> Run:
    """Build the parts of a run and check that they fit together, before anything is written."""
    spent = Spent()
    quiet_libraries()
    check_trainer(settings.trainer)
    check_batch(settings)
    recipe = Recipe.build(settings)
    resumed = resumed_from(settings, folder)
    scorer = make_scorer(settings, recipe.data, folder)
    recipe, data = recipe.with_classes(), recipe.data
    check_sweep_score(settings, scorer)
    trainer = make_trainer(settings, folder, resumed)
    step, seen = (0, 0) if resumed is None else (resumed.step, resumed.seen(data))
    clock, drawing = clock_of(settings, data, trainer.world_size, (step, seen)), recipe.drawing()
    facts = recipe.facts(drawing, clock.total, {} if resumed is None else resumed.contents["facts"])
    module = Diffusion(recipe, clock, facts)
    check_recipe(module, data, drawing.in_training)
    processes.check_processes(trainer)
    if resumed is not None:
        resumed.check(module.state_dict(), data.keys, clock.total, folder)
    elif settings.init is not None:
        start_from(settings.init, module.denoiser.network, settings.model_dump(), data)
    own, logs = make_callbacks(settings), dashboards(settings, folder, resumed)
    prepare_network(module, settings, trainer)
    amounts = affordable(recipe, drawing, clock, trainer.world_size)
    if (scorer := scorer if amounts.scored else None) is not None:
        scorer.extractor.to(trainer.strategy.root_device)
    set_clock(trainer, data, clock, step)
    run = Run(settings, folder, record, recipe, facts, resumed, clock, amounts, drawing, scorer, module, trainer, spent)
    run.begin(logs)
    checkpoints = Checkpoints(folder, settings.checkpoint, clock, record, run.start)
    trainer.callbacks.extend(callbacks_of(run, own, checkpoints))  # type: ignore[attr-defined]
    return run
