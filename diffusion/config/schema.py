"""The settings of each command: type, default, range and documentation in one place.

`python -m diffusion.train --help` prints them. What a choice of a group takes, such as `model.channels`, is documented
where the class or function that it names is defined.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from diffusion.config.validation import Group, Words


def _inside(name: str) -> str:
    if not name or name.startswith("/") or ".." in Path(name).parts:
        raise ValueError("points outside of outputs")
    return name


def _time(text: str) -> str:
    if not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", text) or not re.search("[1-9]", text):
        raise ValueError("not a time")
    return text


Name = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    AfterValidator(_inside),
    Words("a name inside the folder outputs"),
]
Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Devices = Count | Literal["auto"]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
Split = Literal["train", "val", "test"]
Audit = list[Literal["pixels", "features"]]
Baselines = list[Literal["noise", "real", "floor"]]
Weights = Literal["ema", "raw"] | Annotated[float, Gt(0), Le(0.288)]
NonNegative = Annotated[float, Ge(0)]
Interval = Annotated[
    list[NonNegative | None], MinLen(2), MaxLen(2), Words("a pair [low,high] of noise levels, null for no end")
]


class Settings(BaseModel):
    """A set of settings that can be given on the command line."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, protected_namespaces=(),
        ser_json_inf_nan="constants",
    )  # fmt: skip


class Validation(Settings):
    """Denoising MSE on a frozen grid of (t, eps), over held-out images and as many training images."""

    draws: Count = 1
    """Times and noises for each image."""
    seed: Seed = 0
    """Seed of the grid. It is not the run's, so runs of different seeds are measured alike."""


class Checkpoint(Settings):
    """Checkpoints: one after each validation, as last.ckpt, best.ckpt (lowest val/mse) and step-….ckpt."""

    keep: Count = 2
    """How many of the newest step-….ckpt are kept. A damaged checkpoint needs one before it; 1 takes least room."""
    finished: Literal["all", "best", "weights"] = "all"
    """What stays when the run is complete: all, best.ckpt, or only the last weights, as last.safetensors."""
    every_n_steps: Count | None = None
    """Also save every so many optimizer steps, for long epochs."""


class Guard(Settings):
    """Stops a run whose loss, gradient or weights are no longer finite, or whose loss diverges."""

    action: Literal["stop", "skip"] = "stop"
    """At a gradient that is not finite: stop, or skip the step and count it."""
    spikes: Count | None = 6
    """Stop after so many losses in a row far above the usual; null for never."""


class Samples(Settings):
    """Pictures of samples from the same noise, as training goes on."""

    n: CountOrZero | None = None
    """Images in a picture; 0 for none. Unset: 16, or fewer where all pictures would cost more than the training."""
    every_n_epochs: Count | None = 10
    """Epochs between pictures; null for one picture at the end only."""


class Score(Settings):
    """Scores of samples at the end of a run, by the group `metrics` on the group `features`."""

    n: CountOrZero | None = None
    """Samples to score; 0 for none. Unset: 512, or none where they would cost more than the training."""
    every_n_epochs: Count | None = None
    """Also score during training, by the Fréchet and the kernel distance."""
    split: Split = "val"
    """The reference images. Use `test` only when all choices have been made."""
    to_train: bool = False
    """Score the last samples against the training images, too, as much of the literature does: it rewards copies."""
    audit: Audit = []
    """Look for copies of training images among the samples, by [pixels, features]."""
    baselines: list[Literal["noise", "real", "floor", "untrained"]] = ["noise", "real", "floor"]
    """What is scored beside the samples, at the same n: noise, real, floor, untrained."""
    batch_size: Count = 64
    """Samples drawn at once."""

    @property
    def references(self) -> list[Split]:
        """The splits that the last samples are scored against; by the first of them choices are made."""
        return [self.split, "train"] if self.to_train and self.split != "train" else [self.split]


class Sweep(Settings):
    """What a sweeper that searches, such as Optuna, makes small or large: see diffusion/runs/optuna.py."""

    score: str = "val/mse"
    """The quantity of metrics.csv whose last value a job hands to the sweeper, such as val/fd_lite0."""


class Trainer(Settings):
    """Lightning's Trainer. Its other arguments are what a run decides itself, and refused: see `INSTEAD`."""

    model_config = ConfigDict(extra="allow")

    max_epochs: Count | Literal[-1] | None = 250
    """Epochs of the run; -1 for no limit."""
    max_steps: Count | Literal[-1] = -1
    """Optimizer steps of the run; -1 for no limit. Of both limits the first one counts."""
    accumulate_grad_batches: Count = 1
    """Batches whose gradients make one optimizer step. Or data.global_batch_size sets its images; then
    limit_train_batches and val_check_interval count steps."""
    max_time: Annotated[str, AfterValidator(_time), Words("a time as DD:HH:MM:SS, such as 00:11:30:00")] | None = None
    """Time after which training is saved and interrupted, as DD:HH:MM:SS. A resumed run trains for as long again."""
    limit_train_batches: Count | Annotated[float, Ge(0), Le(1)] | None = None
    """Batches of an epoch, as a number or a fraction, to try something out."""
    limit_val_batches: Count | Annotated[float, Gt(0), Le(1)] | None = None
    """Batches of a validation, of held-out and of training images each, to try something out."""
    check_val_every_n_epoch: Count | None = 1
    """Epochs between validations; null where val_check_interval counts across epochs."""
    val_check_interval: Count | Annotated[float, Ge(0), Le(1)] | None = None
    """Batches between validations, as a number or a fraction of an epoch. The last step is always validated."""
    gradient_clip_val: Annotated[float, Ge(0)] | None = None
    """Norm to which gradients are clipped."""
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    """Clip the gradient's norm, which null does too, or each of its values."""
    log_every_n_steps: CountOrZero = 50
    """Optimizer steps between rows of metrics.csv."""
    num_nodes: Count = 1
    """Machines, each with as many `devices`."""
    sync_batchnorm: bool = False
    """On several devices, use the statistics of all of them in batch normalisation."""
    deterministic: bool | Literal["warn"] | None = None
    """Only algorithms that give the same result every time."""
    benchmark: bool | None = None
    """Let cuDNN try out its algorithms."""
    inference_mode: bool = True
    """Validate in torch's inference mode, rather than without gradients only."""
    detect_anomaly: bool = False
    """Find the operation that made a gradient NaN. It is slow."""
    profiler: Literal["simple", "advanced", "pytorch"] | dict[str, Any] | None = None
    """Time the parts of the training loop, in a table at its end."""


class Train(Settings):
    """Train a denoising diffusion model on images."""

    name: Name = "${hydra:runtime.choices.model}"
    """Runs go to outputs/NAME/TIME."""
    seed: Seed = 0
    """Seed of all randomness: initial weights, order, flips, times, noise, samples."""
    ckpt: str | None = None
    """Resume: `auto` from the newest whole checkpoint of this folder, or else of the newest run of this name; `last`
    from its last.ckpt; or a run, or a checkpoint. `null` on the command line gives up what the folder holds."""
    init: str | None = None
    """Start a new run from the weights of a run, a checkpoint, an exported file or a folder of diffusers, as far as
    they fit. Where the run resumes (`ckpt`), they are not read again."""

    data: Group
    model: Group
    schedule: Group
    prediction: Group
    objective: Group
    augmentation: dict[str, Any] | None = None
    crops: dict[str, Any] | None = None
    optimizer: Group
    lr_scheduler: Group
    ema: dict[str, Any] | None = None
    trainer: Trainer
    sampler: Group
    guidance: dict[str, Any] | None = None
    features: Group
    metrics: Group
    logger: dict[str, Any] | None = None
    callbacks: dict[str, Any] | None = None

    compile: bool | Literal["auto"] = False
    """Compile the network with torch.compile; `auto`: in a training of an hour or more, where a trial shows that it
    saves more time than it takes."""
    channels_last: bool = True
    """Use the memory layout in which convolutions are fastest."""
    matmul_precision: Literal["highest", "high", "medium"] = "high"
    """Float32 matrix products on a GPU; `high` is TF32."""

    label_dropout: Annotated[float, Ge(0), Le(1)] = 0.1
    """Share of the training images that are shown without their label, so that the network learns both."""
    least_interval: Count = 25
    """Optimizer steps, at least, between validations (each saves a checkpoint), pictures or scores that come every so
    many epochs: with few images an epoch is a step or two. In a short run, a tenth of it."""

    validation: Validation = Validation()
    checkpoint: Checkpoint = Checkpoint()
    guard: Guard = Guard()
    samples: Samples = Samples()
    score: Score = Score()
    sweep: Sweep = Sweep()


class Drawn(Settings):
    """What every command that draws images from a trained model is given."""

    ckpt: str
    """A run's folder, a checkpoint, an exported file, a folder of diffusers, or `last`: of the run in outputs/ that
    saved last."""
    weights: Weights = "ema"
    """Averaged or raw weights; or a number, for an average of this length out of a run with ema=power."""
    seed: Seed | None = None
    """Image i depends on (seed, i) alone, whatever n and batch_size are; null for the run's seed."""
    batch_size: Count = 64
    """Images drawn at once."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    devices: Devices = "auto"
    """Processes that draw, each on a GPU of its own or together on the CPU; auto: all GPUs, or 1."""
    label: int | str | None = None
    """The class of all images, by name or number; `none` for no class; null: as often as in the training images."""
    labels: Annotated[list[int | str], MinLen(1)] | None = None
    """Several classes, which the images are of in turn: the picture has a row for each."""
    sampler: Group
    guidance: dict[str, Any] | None = None
    name: Name = "${hydra:job.name}"
    """Of the output."""


class Sample(Drawn):
    """Draw images from a trained model."""

    n: Count = 64
    """Images."""
    trajectory: bool = False
    """Also draw the denoising steps of the first 8 images, as a strip and a GIF."""
    frames: Count = 12
    """Pictures in the strip. (The GIF has up to 100.)"""


class Edit(Drawn):
    """Draw variants of a picture, fill a part of it, or draw images between two noises."""

    image: str | None = None
    """A picture to begin with. Its largest square around the centre is made as small as the model's images."""
    strength: Annotated[float, Gt(0), Le(1)] | None = None
    """How much of the picture is drawn anew: the share of the sampler's steps that are made. null: 0.6."""
    mask: str | None = None
    """Instead, fill the picture where this one is white (brighter than grey) or transparent, by the group `inpainting`.
    It has the picture's proportions."""
    interpolate: Annotated[list[Seed], MinLen(2), MaxLen(2), Words("two seeds [A,B]")] | None = None
    """Without a picture: images on the way from image 0 of one seed to image 0 of another."""
    n: Count = 8
    """Images of a picture."""
    frames: Annotated[int, Ge(2)] = 8
    """Images on the way between two noises, both ends included."""
    inpainting: Group


class Evaluate(Settings):
    """Score a trained model, or a folder of images, against real images."""

    ckpt: str | None = None
    """Score samples of this run, checkpoint, exported file or folder of diffusers, or of the `last` run …"""
    images: str | None = None
    """… or the images of this folder, such as the `images` of diffusion.sample."""
    weights: Weights = "ema"
    """Averaged or raw weights; or a number, for an average of this length out of a run with ema=power."""
    split: Split = "val"
    """The reference images. `test` is for when all choices have been made, and once for a run …"""
    again: bool = False
    """… unless this is true: then it is one more evaluation on test, and counted."""
    n: Count | None = None
    """Samples; null for the run's number. With images=FOLDER, so many of them; null for all."""
    seed: Seed | None = None
    """Seed of the samples; null for the run's."""
    batch_size: Count | None = None
    """Samples drawn at once; null for the run's number."""
    audit: Audit = []
    """Look for copies of training images, by [pixels, features]."""
    bits: CountOrZero = 0
    """Held-out images whose bits per dimension are measured, by the group `likelihood`; 0 for none."""
    baselines: Baselines = ["noise", "real", "floor"]
    """What is scored beside the samples, at the same n."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    devices: Devices = "auto"
    """Processes that draw, each on a GPU of its own or together on the CPU; auto: all GPUs, or 1."""
    by_class: bool = False
    """Also score the samples of each class against the reference images of that class."""
    sampler: Group
    guidance: dict[str, Any] | None = None
    features: Group
    metrics: Group
    data: Group
    likelihood: Group
    name: Name = "${hydra:job.name}"
    """Of the output."""


class AnyStudy(Settings):
    """What every study on one trained model is given."""

    ckpt: str
    """A run's folder, a checkpoint, an exported file, or `last`: of the run in outputs/ that saved last."""
    n: Count = 250
    """Samples of each setting, all from the same noise; of a model with labels, of each class as often as the
    reference."""
    baselines: Baselines = ["floor"]
    """What is scored beside the samples, at the same n."""
    weights: Weights = "ema"
    """Averaged or raw weights; or a number, for an average of this length out of a run with ema=power."""
    split: Split = "val"
    """The reference images. On test each setting is an evaluation, and the best one's score is too good."""
    seed: Seed = 0
    """Seed of the samples."""
    batch_size: Count = 64
    """Samples drawn at once."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    devices: Devices = "auto"
    """Processes that draw, each on a GPU of its own or together on the CPU; auto: all GPUs, or 1."""
    guidance: dict[str, Any] | None = None
    features: Group
    metrics: Group
    name: Name = "${hydra:job.name}"
    """Of the output."""


class Study(AnyStudy):
    """Compare samplers on one trained model: scores against network evaluations and seconds."""

    samplers: Literal["all"] | Annotated[list[str], MinLen(1)] = ["ddim", "dpm_2m", "unipc", "heun"]
    """Choices of conf/sampler, with overrides after a space: "dpm_2m grid@sampler.grid=karras"; or `all` that fit."""
    nfe: Annotated[list[Count], MinLen(1)] = [10, 20, 50]
    """Budgets of network evaluations per image."""


class GuidanceStudy(AnyStudy):
    """Compare scales and intervals of a guidance on one trained model: scores, and fidelity against diversity."""

    scales: Annotated[list[NonNegative], MinLen(1)] = [1, 1.25, 1.5, 2, 3]
    """Scales of the guidance, in the place of guidance.scale. 1 is no guidance, and always among the results."""
    intervals: Annotated[list[Interval], MinLen(1)] | None = None
    """Intervals (low, high] of sigma/alpha in which the guidance acts, such as [[null,null],[0.2,1.6]], in the place of
    guidance.low and guidance.high: each scale is tried in each. null: the guidance's own."""
    samplers: Annotated[list[str], MinLen(1)] = ["run"]
    """The run's sampler, and choices of conf/sampler with overrides after a space: "heun sampler.steps=18"."""
    steps: Count | None = None
    """Steps of every sampler; null: each one's own. All scales have as many: guidance may double the evaluations (NFE),
    and the table shows how many there are."""


COMMANDS: dict[str, type[Settings]] = {
    "train": Train, "sample": Sample, "edit": Edit, "evaluate": Evaluate, "study": Study,
    "study_guidance": GuidanceStudy,
}  # fmt: skip

RENAMED = {  # keys that work for one more version
    "score.yardsticks": "score.baselines", "yardsticks": "baselines", "logger.project": "logger.wandb.project",
}  # fmt: skip

INSTEAD = {  # arguments of Lightning's Trainer that a run does not leave to the user, and what to use instead
    "trainer.barebones": "make bench measures the bare loop",
    "trainer.callbacks": "choose callbacks=early_stopping or several, callbacks=[throughput,memory]; one of your own "
    "is +callbacks.NAME._target_=my_package.MyCallback",
    "trainer.default_root_dir": "set the run's folder, hydra.run.dir=FOLDER",
    "trainer.enable_autolog_hparams": "choose logger=csv, which sends settings nowhere",
    "trainer.enable_checkpointing": "a run always saves checkpoints; set checkpoint.keep or checkpoint.every_n_steps",
    "trainer.enable_model_summary": "the run's README describes the network",
    "trainer.enable_progress_bar": "the bar is left out where the output is no terminal",
    "trainer.fast_dev_run": "experiment=debug tries everything out in a few steps",
    "trainer.limit_predict_batches": "a run predicts nothing; set samples.n",
    "trainer.limit_test_batches": "a run has no test loop; set score.n",
    "trainer.logger": "choose logger=csv, wandb, tensorboard or several, logger=[wandb,tensorboard]; metrics.csv is "
    "always written",
    "trainer.min_epochs": "set callbacks.early_stopping.patience, in validations",
    "trainer.min_steps": "set callbacks.early_stopping.patience, in validations",
    "trainer.model_registry": "python -m diffusion.export RUN writes a model's file",
    "trainer.num_sanity_val_steps": "a run tries its parts out before the first step by itself",
    "trainer.overfit_batches": "few images are data=folder data.limit=N, and few batches of an epoch "
    "trainer.limit_train_batches=N",
    "trainer.plugins": "precision is trainer.precision; a run brings its own plugins for checkpoints and processes",
    "trainer.reload_dataloaders_every_n_epochs": "the images do not change during a run",
    "trainer.use_distributed_sampler": "each device gets its share of the images by itself",
}
