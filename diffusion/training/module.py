"""The LightningModule: the network, the forward process's tables, the objective."""

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from diffusion.data import Batch, ImageData
from diffusion.errors import UserError
from diffusion.metric.denoising import SETS, DenoisingErrors, FrozenGrid
from diffusion.model.network import examples
from diffusion.process.denoiser import Denoiser, diffuse, expand
from diffusion.process.floor import Atoms
from diffusion.process.grid import even_times
from diffusion.process.objective import share_of
from diffusion.randomness import Streams, real_dtype, seed_for, seeds_for, to_device
from diffusion.runs.record import config_text
from diffusion.training.ema import average_of
from diffusion.training.parts import Parts
from diffusion.training.resume import set_progress


class Diffusion(pl.LightningModule):
    """Trains `network` as a denoiser and validates it on a frozen grid of (t, eps).

    The time, the noise and the label dropout of a training example are functions of (seed, epoch, index in the split).
    An example is seen once per epoch, so these draws do not depend on its batch, the number of devices or restarts.
    Dropout is a function of (seed, step, index) if the network uses `diffusion.model.network.Dropout`.

    Args:
        run: The parts of the run. Its data and its guidance are not kept, because the module is copied.
    """

    def __init__(self, run: Parts):
        super().__init__()
        self.denoiser = run.denoiser
        self.objective = run.objective
        train, dropout, inside = run.data.splits["train"], run.settings.label_dropout, run.data.kind.inside
        more = run.augmentation or run.crops or run.condition or run.settings.encoder or run.data.missing
        atoms = None if more else Atoms(train.images, run.data.flip, train.labels, dropout, inside)
        try:
            self.objective.prepare(self.denoiser, atoms)
        except UserError as error:
            advice = "set objective=simple augmentation=none crops=none, or other timesteps@objective.timesteps"
            raise UserError(f"{error}; {advice}") from error
        self.optimizer, self.lr_scheduler = run.optimizer, run.lr_scheduler
        self.augmentation, self.crops, self.condition = run.augmentation, run.crops, run.condition
        self.settings, self.facts, self.clock = run.settings, run.facts, run.clock
        self.missing = run.data.missing
        self.gathered: list[dict[str, Tensor]] = []  # values of the batches so far that belong `together`
        self.stepped = True  # whether the last step updated the weights; False if it was skipped
        self.validated = 0  # the step of the last complete validation
        # With a seed of its own, so that the errors of runs with different seeds are paired.
        self.times = partial(even_times, copy.deepcopy(self.denoiser.schedule).cpu())  # u -> t
        self.frozen = FrozenGrid(0, getattr(self.denoiser.schedule, "steps", None))
        self.exact = None if run.data.truth is None else run.data.truth.exact(copy.deepcopy(self.denoiser.schedule))
        self.errors: Any = nn.ModuleDict({weights: DenoisingErrors() for weights in ("ema", "raw")})

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed torch's generators by the step, on all devices alike, for code that does not use streams."""
        seed = seed_for(self.settings.seed, "dropout", self.trainer.global_step)
        # Not torch.manual_seed: without a GPU it formats the whole call stack on every call.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            getattr(torch, self.device.type).manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of a batch; log the mean over the batches so far that belong `together`."""
        self.objective.begin(self.trainer.global_step, self.clock.total)
        with examples(to_device(batch.index, self.device)):
            x0, given, kept = self.shown(batch, self.settings.label_dropout)
            losses = self.values(x0, given, partial(self.streams, batch), batch.stored, kept)
        if batch.number % self.clock.together == 0:
            self.gathered = []
        mine = {name: losses[name].detach() for name in ("t", "term", "loss")}
        gathered: Any = self.all_gather(mine)  # from all devices
        self.gathered.append({name: values.flatten() for name, values in gathered.items()})
        whole = {name: torch.cat([part[name] for part in self.gathered]) for name in self.gathered[0]}
        if len(self.gathered) == self.clock.together:
            self.objective.update(whole["t"], whole["term"])
        counted = {"epoch": float(batch.epoch), "lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
        device = self.device  # the numbers are created there, because copying them waits
        logged = {name: torch.full((), x, dtype=real_dtype(device), device=device) for name, x in counted.items()}
        self.log_dict(logged | {"train/loss": whole["loss"].mean()}, batch_size=1)
        return losses["loss"].mean()

    def values(
        self, x0: Tensor, given: dict[str, Tensor], streams: Callable[[str], Streams], stored: Mapping[str, Tensor],
        kept: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the objective's values (B,) by name, for x0 (B, C, *size), in which missing values are NaN.

        Args:
            given: The network's inputs besides x_t and t: the classes.
            streams: use -> the random streams of the images.
            stored: What is stored for their condition.
            kept: Which images are shown with their condition, (B,) bool; None: all.
        """
        if self.augmentation is not None:
            x0, given["augment"] = self.augmentation(x0, streams("augment"))
        if self.crops is not None:
            x0, given["window"] = self.crops(x0, streams("crops"))
        if self.missing:
            given["known"], x0 = ~x0.isnan(), x0.nan_to_num()
        if self.condition is not None:
            given |= self.condition.prepared(x0, stored, streams("condition"), kept)
        found: dict[str, Tensor] = self.objective(self.denoiser, x0, streams("train"), **given)
        return found

    def streams(self, batch: Batch, use: str) -> Streams:
        """Return the random streams of a batch for one use; they know the batch's place among all devices."""
        n, parts, devices = len(batch.index), self.clock.together, self.trainer.world_size
        number, part = divmod(batch.number, parts)
        first = (part * devices + self.global_rank) * n
        return Streams(
            seeds_for(self.settings.seed, use, batch.epoch, last=batch.index.tolist()),
            self.device,
            batch_seed=seed_for(self.settings.seed, "batch", batch.epoch, number),
            first=first,
            batch_size=n * devices * parts,
        )

    def shown(self, batch: Batch, dropout: float = 0.0) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Return x0, the network's inputs besides x_t and t, and which images have them, (B,) bool; None: all.

        x0 is in float32, or in float64 if the network is; the forward process never uses half precision. The `classes`
        (B,) of images that are shown without are K ("no class").

        Args:
            dropout: Fraction of images shown without class and condition (Ho & Salimans 2022).
        """
        dtype = next(self.denoiser.parameters()).dtype
        x0 = batch.image.to(torch.promote_types(batch.image.dtype, dtype))
        given = {} if batch.classes is None else {"classes": batch.classes}
        if not dropout or (not given and self.condition is None):
            return x0, given, None
        seeds = seeds_for(self.settings.seed, "label", batch.epoch, last=batch.index.tolist())
        kept = to_device(torch.tensor([seed >= dropout * 2**63 for seed in seeds]), self.device)  # uniform below 2⁶³
        if given:
            given["classes"] = given["classes"].masked_fill(~kept, int(self.denoiser.network.classes))  # type: ignore[arg-type]
        return x0, given, kept

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Stop after the last step. Lightning validates before it stops, whatever the validation interval."""
        if self.trainer.global_step >= self.clock.total:
            self.trainer.should_stop = True

    def raw_denoiser(self) -> Denoiser | None:
        """The denoiser with raw weights, while validation uses the averaged ones; None without an average."""
        average = average_of(self.trainer)
        return None if average is None else average.average.denoiser

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Compute (eps_θ(x_t, t) − eps)² per image at its frozen times and noises, with averaged and raw weights."""
        denoisers = {"ema": self.denoiser, "raw": self.raw_denoiser()}
        x0, given, _ = self.shown(batch)
        known, x0 = (~x0.isnan(), x0.nan_to_num()) if self.missing else (None, x0)
        if self.condition is not None:
            fixed = Streams(seeds_for("condition", last=batch.index.tolist()), self.device)
            given |= self.condition.prepared(x0, batch.stored, fixed)
        for k in range(self.settings.validation.draws):
            u = self.frozen.t(batch.index, k)
            u, t = (each.to(self.device, real_dtype(self.device)) for each in (u, self.times(u)))
            eps = self.frozen.noise(batch.index, k, x0)
            x_t = diffuse(self.denoiser.schedule, x0, eps, t)
            for weights, denoiser in denoisers.items():
                if denoiser is not None:
                    estimate = denoiser(x_t, t, **given).eps
                    square = (estimate - eps).square()
                    square = square if known is None else square * known / expand(share_of(known), square)
                    error = square.flatten(1).mean(dim=1)
                    self.errors[weights].update(SETS[dataloader_idx], error, u, batch.index, k)
                    if self.exact is not None and dataloader_idx == 0 and given.keys() <= {"classes"}:
                        error = (estimate - self.exact(x_t, t, **given).eps).square().flatten(1).mean(dim=1)
                        self.errors[weights].update("regret", error, u, batch.index, k)

    def on_validation_epoch_end(self) -> None:
        """Log the errors of `DenoisingErrors`; `_raw` marks raw weights, if there is an average."""
        loaders = zip(SETS, self.trainer.val_dataloaders, strict=False)  # type: ignore[arg-type]
        sources = {part: loader.dataset.sources for part, loader in loaders}  # tiles of a photograph are dependent
        logged = self.errors["ema"].compute(sources)
        if self.raw_denoiser() is not None:
            raw = self.errors["raw"].compute(sources)
            logged |= {f"{name}_raw": x for name, x in raw.items() if not name.startswith(("val/mse_", "fit/mse_"))}
        for errors in self.errors.values():
            errors.reset()
        self.validated = self.trainer.global_step
        epoch = self.clock.epoch_after(self.validated - 1)  # the epoch of the last step
        self.log_dict(logged | {"epoch": float(epoch)})

    def new_optimizer(self) -> Optimizer:
        """Create a new optimizer for all parameters. `Muon` needs to see the layers: it has an argument `network`."""
        asks = "network" in inspect.signature(self.optimizer).parameters
        given = {"network": self.denoiser.network} if asks else {}
        made: Optimizer = self.optimizer(list(self.parameters()), **given)
        return made

    def configure_optimizers(self) -> Any:
        optimizer = self.new_optimizer()
        optimizer.register_step_post_hook(self.note_step)
        scheduler = self.lr_scheduler(optimizer, self.clock.total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Give a resumed optimizer the settings and the learning rate of this run, instead of those saved with it."""
        (optimizer,), scheduler = self.trainer.optimizers, self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        named = {*inspect.signature(self.optimizer).parameters, *getattr(self.optimizer, "keywords", {})}
        for i, fresh in enumerate(self.new_optimizer().param_groups):
            group, rate = optimizer.param_groups[i], fresh["lr"]
            group |= {key: value for key, value in fresh.items() if key in named - {"params", "lr"}}
            group["initial_lr"] = scheduler.base_lrs[i] = rate
            group["lr"] = rate * scheduler.lr_lambdas[i](scheduler.last_epoch)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Parts the step, which float16's gradient scaler may skip."""
        self.stepped = False
        super().optimizer_step(*args, **kwargs)

    def note_step(self, *_: Any) -> None:
        self.stepped = True

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.stepped:
            super().lr_scheduler_step(scheduler, metric)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set the place in this run, which may be longer, or use other batches per step."""
        self.validated, due = checkpoint["validated"], self.clock.validates(checkpoint["global_step"])
        set_progress(checkpoint, self.clock.accumulate, self.clock.total, due)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the settings as text, the facts, the identity of images and labels, and the real epoch.

        (For Lightning the whole run is one epoch.)
        """
        step, data = checkpoint["global_step"], self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageData)
        checkpoint |= {"config": config_text(self.settings), "facts": self.facts.written(), "images": data.keys}
        if data.classes:
            checkpoint["labels"] = dict(zip(data.classes, data.class_counts("train"), strict=True))
        checkpoint |= {"epoch": self.clock.epoch_after(step), "validated": self.validated}
