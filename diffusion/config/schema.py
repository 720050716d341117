"""The settings of each command: type, default, range and documentation in one place.

`diffusion train --help` prints them. The settings of a choice, such as `model.channels`, are documented in
the class or function that the choice names.
"""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _chosen(node: dict[str, Any] | None) -> dict[str, Any] | None:
    """None for ema=none, whose `_target_` is null; an experiment that sets ema.decay leaves it beside that."""
    return node if node and node.get("_target_", "") is not None else None


Name = Annotated[str, BeforeValidator(lambda name: str(name) if type(name) is int else name)]
Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0), Le(1)]  # a fraction
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
Split = Literal["train", "val", "test"]
Mixed = Literal["bf16-mixed", "16-mixed"]
Group = Annotated[dict[str, Any], MinLen(1)]  # the choice of a group of conf/, such as `model`
OptionalGroup = dict[str, Any] | None  # a group in which nothing may be chosen
Baseline = Annotated[
    Literal["noise", "real", "split_half"],
    BeforeValidator(lambda name: "split_half" if name == "floor" else name),  # as older runs have it
]
NonNegative = Annotated[float, Ge(0)]
Interval = Annotated[list[NonNegative | None], MinLen(2), MaxLen(2)]
Audit = Annotated[
    list[Literal["pixels"]], Field(description="[pixels]: look for copies of real images among the samples.")
]
Devices = Annotated[
    Count | Literal["auto"],
    Field(description="Sampling processes, each on its own GPU or sharing the CPU; auto: one per GPU, or 1."),
]
Trained = Annotated[
    str,
    Field(
        description="A run, a checkpoint, an exported file or a diffusers folder; `last`: the run that saved last; "
        "`demo`: the bundled model, as experiment=demo trains it; hf://USER/NAME, or hf://USER/NAME@REVISION: the Hub."
    ),
]


class Settings(BaseModel):
    """A set of settings that can be given on the command line."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, protected_namespaces=(),
        ser_json_inf_nan="constants",
    )  # fmt: skip


class Validation(Settings):
    """Denoising MSE on a fixed grid of (t, eps), over held-out images and an equal number of training images."""

    draws: Count = 1
    """Number of (t, eps) pairs per image. Runs with different seeds share the same grid."""
    floor: bool = False
    """At the end, compare the errors by noise level with those of the best denoiser of the training images."""


class Checkpoint(Settings):
    """Checkpoints, saved after every validation: last.ckpt, best.ckpt (lowest val/mse) and step-….ckpt."""

    keep: Count = 2
    """Newest step-….ckpt files to keep. 1 leaves no older checkpoint to fall back to if the newest is damaged."""
    finished: Literal["all", "best", "weights"] = "all"
    """Kept when the run is complete: all, only best.ckpt, or only the final weights, as last.safetensors."""
    every_n_steps: Count | None = None
    """Also save at this interval, in optimizer steps; useful for long epochs."""


class Guard(Settings):
    """Stops a run if its loss or its weights are no longer finite, or if its loss diverges."""

    spikes: Count | None = 6
    """Stop after this many consecutive losses far above the usual level; null: never."""


class Samples(Settings):
    """Pictures of samples drawn during training, always from the same noise."""

    n: CountOrZero | None = None
    """Images per picture; 0: none. Unset: 16, or fewer if all pictures together would cost more than training."""
    every_n_epochs: Count | None = 10
    """Epochs between pictures; null: only one picture, at the end."""
    precision: Mixed | None = None
    """As `precision` of `diffusion sample`, for pictures and scored samples, whatever trainer.precision is."""


SCORED = 512  # samples to score if their number is not set


class Score(Settings):
    """Scores of samples at the end of a run: the metrics in the group `metrics`, on the features in `features`."""

    n: CountOrZero | None = None
    """Number of samples to score; 0: none. Unset: 512, or none if they would cost more than training."""
    every_n_epochs: Count | None = None
    """Also score during training, every this many epochs, with the Fréchet and kernel distances."""
    split: Split = "val"
    """Split of the reference images. Use `test` only after all choices have been made."""
    to_train: bool = False
    """Also score the final samples against the training images, as much of the literature does. This rewards copies."""
    audit: Audit = []
    baselines: list[Baseline] = ["noise", "real", "split_half"]
    """Baselines to score besides the samples, with the same n: noise, real, split_half."""
    batch_size: Count = 64
    """Samples drawn per batch."""

    @property
    def references(self) -> list[Split]:
        """The splits that the final samples are scored against. Only the first one is used to make choices."""
        return [self.split, "train"] if self.to_train and self.split != "train" else [self.split]


class Sweep(Settings):
    """The objective of a search: see docs/search.md."""

    score: str | Annotated[list[str], MinLen(1)] = "val/mse"
    """What a search optimizes: the last value of a column of metrics.csv, such as val/fd_lite0; or `seconds`, the time
    of the training steps; or several of them, as [val/fd_lite0,seconds]."""

    @property
    def scores(self) -> list[str]:
        """The scores, also if there is only one."""
        return [self.score] if isinstance(self.score, str) else self.score


class Comparison(Settings):
    """When a sweep ends a comparison: see docs/search.md."""

    stop: Literal["decided"] | None = None
    """decided: run no further seeds of a recipe that earlier ones have shown to differ from the sweep's first."""


class Trainer(Settings):
    """The arguments of Lightning's Trainer whose meaning a run changes; conf/trainer/default.yaml lists others."""

    model_config = ConfigDict(extra="allow")

    max_epochs: Count | Literal[-1] | None = 250
    """Epochs of the run; -1: no limit."""
    max_steps: Count | Literal[-1] = -1
    """Optimizer steps of the run; -1: no limit. Training ends at the first limit reached, max_epochs or max_steps."""
    accumulate_grad_batches: Count = 1
    """Batches per optimizer step; alternatively, data.global_batch_size sets the images per step."""
    limit_train_batches: Count | Fraction | None = None
    """Batches per epoch, as a number or a fraction, for quick tests."""
    limit_val_batches: Count | Positive | None = None
    """Batches per validation, of held-out and of training images each, as a number or a fraction, for quick tests."""
    check_val_every_n_epoch: Count | None = 1
    """Epochs between validations, or whose fraction val_check_interval is. A number of batches replaces it."""
    val_check_interval: Count | Positive | None = None
    """Batches between validations, as a number or a fraction of an epoch. The last step is always validated."""
    log_every_n_steps: CountOrZero = 50
    """Optimizer steps between rows of metrics.csv."""


class Train(Settings):
    """Train a denoising diffusion model on images."""

    name: Name = "${hydra:runtime.choices.model}"
    """Name of the run, which is saved in outputs/NAME/TIME."""
    seed: Seed = 0
    """Seed of all randomness: initial weights, data order, flips, times, noise, samples."""
    ckpt: str | None = None
    """Resume from `auto`: the newest intact checkpoint in this folder, if any; `last`: last.ckpt of this folder or of
    the newest run beside it; or a run or a checkpoint. `null` on the command line starts over and removes this run."""
    init: str | None = None
    """Start a new run from the weights of a model, named as for `ckpt` of diffusion sample. Its network, schedule and
    prediction, and the size and channels of its images, are inherited unless they are given."""

    data: Group
    model: Group
    schedule: Group
    prediction: Group
    objective: Group
    augmentation: OptionalGroup = None
    crops: OptionalGroup = None
    condition: OptionalGroup = None
    encoder: OptionalGroup = None
    optimizer: Group
    lr_scheduler: Group
    ema: Annotated[OptionalGroup, AfterValidator(_chosen)] = None
    trainer: Trainer
    sampler: Group
    guidance: OptionalGroup = None
    features: Group
    metrics: Group
    logger: OptionalGroup = None
    callbacks: OptionalGroup = None

    compile: bool = False
    """Compile the network with torch.compile, which takes minutes and pays in long runs on a GPU."""
    matmul_precision: Literal["highest", "high", "medium"] = "high"
    """Precision of float32 products: `high` and `medium` are TF32 on GPUs; `medium` is bfloat16 on CPUs with AMX."""
    label_dropout: Fraction = 0.1
    """Fraction of training images shown without their label and condition, for a network with and without them."""
    least_interval: Count = 25
    """Minimum steps of an interval that is given in epochs; in a short run, at most a tenth of its steps."""

    validation: Validation = Validation()
    checkpoint: Checkpoint = Checkpoint()
    guard: Guard = Guard()
    samples: Samples = Samples()
    score: Score = Score()
    sweep: Sweep = Sweep()
    study: Comparison = Comparison()


class FromModel(Settings):
    """The settings shared by all commands that draw from a trained model. Groups that are None are left to its run."""

    ckpt: str | None = None
    weights: Literal["ema", "raw", "exact"] | Annotated[float, Gt(0), Le(0.288)] = "ema"
    """Averaged (`ema`) or `raw` weights; or a number: the length of a post-hoc average, for a run with ema=power;
    exact: the best denoiser in place of the network, for data whose distribution is known, such as data=points."""
    precision: Mixed | None = None
    """Faster sampling in bfloat16, or float16 for older GPUs, which changes the samples slightly; null: float32."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps."""
    guidance: OptionalGroup = None
    condition: OptionalGroup = None
    name: Name = "${hydra:job.name}"
    """Name in the report of an evaluation; sample, edit and study do not use it."""


class Drawn(FromModel):
    """The settings shared by the commands that only draw."""

    ckpt: Trained
    seed: Seed | None = None
    """Image i depends only on (seed, i), not on n or batch_size; null: the run's seed."""
    batch_size: Count = 64
    """Images drawn per batch."""
    label: int | str | None = None
    """Class of all images, by name or number; `none`: no class; null: all classes, as often as in the training."""
    labels: Annotated[list[int | str], MinLen(1)] | None = None
    """Several classes, assigned to the images in turn; the picture of `diffusion sample` has a row per class."""
    given: str | Annotated[list[float], MinLen(1)] | Annotated[list[list[float]], MinLen(1)] | None = None
    """The condition, for a model with one: a picture or a folder of them, such as small ones for condition=lowres; or
    numbers, [0.4,0.2] or in turn [[0.4,0.2],[0.4,0.8]]. null: those of held-out images; in an edit, of its picture."""
    sampler: OptionalGroup = None
    data: OptionalGroup = None


class Sample(Drawn):
    """Draw images from a trained model."""

    devices: Devices = "auto"
    n: Count = 36
    """Number of images."""
    then: Annotated[list[str], BeforeValidator(lambda then: [then] if isinstance(then, str) else then)] = []
    """Models that enlarge what is drawn, each the images of the one before: SUPER, or [SUPER,SUPER2], trained with
    condition=lowres. condition.level=0.1 is noise that they add to these images; guidance=… is for the first model."""
    trajectory: bool = False
    """Also save the denoising steps of the first 8 images, as trajectory.gif; with `then`, those of its last model."""


class Edit(Drawn):
    """Draw variants of a picture, enlarge it, undo an operator such as a mask or a blur, or interpolate two noises."""

    image: str | None = None
    """Picture to start from; it is cropped around its centre to the proportions of the model's images, and scaled."""
    strength: Positive | None = None
    """How strongly the picture is changed: the fraction of the sampler's steps that are run. null: 0.6."""
    mask: str | None = None
    """Inpaint the picture where this mask of its proportions is white or transparent, by the method in `inpainting`."""
    noise_level: NonNegative | None = None
    """Standard deviation of the noise in what `operator` makes, where pixels lie in [-1, 1]. null: 0.02."""
    observed: bool = False
    """Whether the picture is what the operator made: small, blurred, grey. false: it is applied to the picture."""
    upscale: str | None = None
    """Picture to enlarge, of any size, by a model trained with condition=lowres."""
    interpolate: Annotated[list[Seed], MinLen(2), MaxLen(2)] | None = None
    """Without a picture: interpolate from image 0 of one seed to image 0 of another."""
    n: Count | None = None
    """Number of variants, fillings or answers, or of the images of an interpolation, including both ends. null: 8, or
    1 of an enlarged picture."""
    operator: OptionalGroup = None
    inpainting: OptionalGroup = None


class Scored(FromModel):
    """The settings shared by the commands that score samples."""

    devices: Devices = "auto"
    split: Split = "val"
    """Split of the reference images. Use `test` only after all choices have been made, and only once per run."""
    baselines: list[Baseline] = ["noise", "real", "split_half"]
    """Baselines to score besides the samples, with the same n."""
    batch_size: Count | None = None
    """Samples drawn per batch; null: as in the run."""
    features: OptionalGroup = None
    metrics: OptionalGroup = None
    data: OptionalGroup = None


class Evaluate(Scored):
    """Score a trained model, or a folder of images, against real images."""

    ckpt: str | None = None
    """Score samples of this run, checkpoint, exported file or diffusers folder, of the `last` run, or of `demo`."""
    images: str | None = None
    """Score the images of this folder, or of a .npz, .zip or .tar file, instead, such as SAMPLES/images."""
    reference: str | None = None
    """Images to compare with, instead of those of data: a folder, or a .npz, .zip or .tar file. Or published
    statistics: an .npz file with mu and sigma, for features=inception or dinov2; only the Fréchet distance is left."""
    again: bool = False
    """Allow another evaluation of the run on `test`; it is recorded as such."""
    n: Count | None = None
    """Number of samples; null: as in the run, or 512. With images=FOLDER, the number of its images; null: all."""
    seed: Seed | None = None
    """Seed of the samples; null: the run's seed."""
    audit: Audit = []
    bits: CountOrZero = 0
    """Number of held-out images whose bits per dimension are computed, by the group `likelihood`; 0: none."""
    by_class: bool = False
    """Also score the samples of each class against the real images of that class."""
    sampler: OptionalGroup = None
    likelihood: Group


class AnyStudy(Scored):
    """The settings shared by all studies of a trained model. On test, each of their settings is an evaluation."""

    ckpt: Trained
    n: Count = 250
    """Samples per setting, all from the same noise; with labels, each class as often as in the reference."""
    baselines: list[Baseline] = ["split_half"]
    """Baselines to score besides the samples, with the same n."""
    seed: Seed = 0
    """Seed of the samples."""


class Study(AnyStudy):
    """Compare samplers on one trained model: scores against network evaluations (NFE) and seconds."""

    samplers: Annotated[list[str], MinLen(1)] = ["ddim", "dpm_2m", "unipc", "heun"]
    """Choices of conf/sampler, with overrides after a space: "dpm_2m grid@sampler.grid=karras"."""
    nfe: Annotated[list[Count], MinLen(1)] = [10, 20, 50]
    """Budgets of network evaluations (NFE) per image."""


class GuidanceStudy(AnyStudy):
    """Compare guidance scales and intervals on one trained model: scores and their cost."""

    scales: Annotated[list[NonNegative], MinLen(1)] = [1, 1.25, 1.5, 2, 3]
    """Values of guidance.scale to compare. 1 means no guidance, and is always included in the results."""
    intervals: Annotated[list[Interval], MinLen(1)] | None = None
    """Intervals (low, high] of sigma/alpha with guidance, such as [[null,null],[0.2,1.6]]; null: its own interval."""
    samplers: Annotated[list[str], MinLen(1)] = ["run"]
    """The run's sampler (`run`), and choices of conf/sampler with overrides after a space: "heun sampler.steps=18"."""
    steps: Count | None = None
    """Steps of every sampler whose words do not set them; null: each sampler's own."""


class FloorStudy(Settings):
    """Compare the errors of a trained model, by noise level, with those of the best denoiser of its training images."""

    ckpt: Trained
    weights: Literal["ema", "raw"] | Annotated[float, Gt(0), Le(0.288)] = "ema"
    """Averaged (`ema`) or `raw` weights; or a number: the length of a post-hoc average, for a run with ema=power."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps."""
    n: Count = 256
    """Training images that are noised, and as many held-out images; fewer if there are fewer."""
    levels: Annotated[int, Ge(2)] = 13
    """Noise levels, evenly spaced in log(sigma/alpha) from 0.02 to 20."""
    data: OptionalGroup = None


COMMANDS: dict[str, type[Settings]] = {
    "train": Train, "sample": Sample, "edit": Edit, "evaluate": Evaluate, "study": Study,
    "study_guidance": GuidanceStudy, "study_floor": FloorStudy,
}  # fmt: skip

INSTEAD = {  # arguments of Lightning's Trainer that a run sets itself, and what to use instead
    "trainer.callbacks": "set callbacks=[throughput], or add your own: +callbacks.NAME._target_=my_package.Mine",
    "trainer.default_root_dir": "set the run's folder, hydra.run.dir=FOLDER",
    "trainer.enable_checkpointing": "a run always saves checkpoints; set checkpoint.keep or checkpoint.every_n_steps",
    "trainer.enable_progress_bar": "the bar is hidden if the output is not a terminal",
    "trainer.fast_dev_run": "experiment=debug tests everything in a few steps",
    "trainer.logger": "set logger=csv, wandb, mlflow, …, or several: logger=[wandb,tensorboard]",
    "trainer.max_time": "`timeout 90m diffusion train …` ends it by a signal, after which it saves and can go on",
    "trainer.overfit_batches": "set data=folder data.limit=N, or trainer.limit_train_batches=N",
    "trainer.plugins": "set trainer.precision; a run has its own plugins for checkpoints and processes",
    "trainer.num_sanity_val_steps": "remove it",
}
