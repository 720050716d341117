"""Train a denoising diffusion model on images.

diffusion train                                     the default recipe on the bundled photographs
diffusion train experiment=demo                     a few minutes on a laptop's CPU
diffusion train model=unet_small trainer.devices=1  choose from a group; override a value
diffusion train data=folder data.root=PHOTOS        your own images
diffusion train -m schedule=linear,cosine           a sweep: one run per combination
diffusion train -m … hydra.sweep.dir=SWEEP          rerun the jobs of that sweep that did not complete
diffusion train hydra.run.dir=RUN ckpt=auto         resume a run with its own settings
diffusion train ckpt=last                           resume the newest run of this name in a new folder
"""

import os

if __name__ == "__main__" and os.isatty(1):  # before the imports that take long
    print("starting …", end="\r", flush=True)

from functools import partial

from diffusion.config.schema import Train
from diffusion.runs import processes
from diffusion.runs.command import Command
from diffusion.training import jobs

compose_and_train = Command(
    "train", Train, __doc__, "diffusion.training.jobs.start", "init", "diffusion.training.resume.inherited"
)


def main() -> None:
    """Run the command. Of torchrun's processes, the first one does, and the others join its run."""
    if processes.is_rank() and os.environ["RANK"] != "0":
        if folder := processes.shared_folder():
            processes.as_rank("train", partial(jobs.work, folder))
        return
    with jobs.ending_on_signals():
        try:
            compose_and_train()
        finally:
            if processes.is_rank():
                processes.shared_folder()  # there is no run, e.g. because it is complete


if __name__ == "__main__":
    main()
