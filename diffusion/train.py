"""Train a denoising diffusion model on images.

python -m diffusion.train                                     the default recipe on the bundled photographs
python -m diffusion.train experiment=demo                     a few minutes on a laptop's CPU
python -m diffusion.train model=unet_small trainer.devices=1  choose from a group; override a value
python -m diffusion.train data=folder data.root=PHOTOS        your own images
python -m diffusion.train -m schedule=linear,cosine           a sweep: one run per combination
python -m diffusion.train -m … hydra.sweep.dir=SWEEP          rerun the jobs of that sweep that did not complete
python -m diffusion.train hydra.run.dir=RUN ckpt=auto         resume a run with its own settings
python -m diffusion.train ckpt=last                           resume the newest run of this name in a new folder
"""

import os

from diffusion.runs import early_signals

if __name__ == "__main__":  # before the imports that take long
    early_signals.watch()
    if os.isatty(1):
        print("starting …", end="\r", flush=True)

from pathlib import Path

from diffusion.config.schema import Train
from diffusion.runs import jobs
from diffusion.runs.command import command


def train(settings: Train, folder: Path, words: list[str]) -> None:
    """Train in this process."""
    if (begun := jobs.begin(settings, folder, words)) is not None:
        from diffusion.training import worker

        settings, record = begun
        worker.run(settings, folder, record)


compose_and_train = command("train", Train, __doc__, train, job=jobs.run_job)


def main() -> None:
    """Under torchrun, only the first process composes a configuration; the others join its run."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        for name in jobs.RENDEZVOUS:  # as some clusters set them for every container
            os.environ.pop(name, None)
        compose_and_train()
        return
    from diffusion.training import processes, worker

    if os.environ["RANK"] != "0":
        if words := processes.words_from_torchrun():
            worker.main(words)
        return
    try:
        compose_and_train()
    finally:
        processes.release()


if __name__ == "__main__":
    main()
