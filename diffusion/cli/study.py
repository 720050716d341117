"""Study one trained model: samplers or guidance scales by scores and cost, or where its loss is.

diffusion study sampler ckpt=RUN                                    four samplers, 10 to 50 evaluations
diffusion study sampler ckpt=… samplers=[ddim,heun] nfe=[20,100]    other samplers and numbers
diffusion study sampler ckpt=… 'samplers=[dpm_2m,"dpm_2m grid@sampler.grid=karras"]'   one on two grids
diffusion study guidance ckpt=RUN guidance=cfg                      guidance scales: see guidance --help
diffusion study floor ckpt=RUN                                      errors by noise level: see floor --help
"""

import sys

from diffusion.config.schema import FloorStudy, GuidanceStudy, Study
from diffusion.errors import nearest
from diffusion.runs.command import Command

ABOUT_GUIDANCE = """\
Compare scales of a guidance on one trained model: which is best, and at which cost.

diffusion study guidance ckpt=RUN guidance=cfg                      the run's sampler, scales from 1 to 3
diffusion study guidance ckpt=… guidance=cfg scales=[1.5,2] samplers=[ddim,heun] steps=20
diffusion study guidance ckpt=… guidance=cfg intervals=[[null,null],[0.2,1.6]]    also in an interval only
diffusion study guidance ckpt=… guidance=auto guidance.ckpt=WEAK   autoguidance, with labels or without
"""

ABOUT_FLOOR = """\
Compare the errors of one trained model, by noise level, with the floor: those of the best denoiser of its training
images, which is known. It shows where training still has something to give, and where it memorizes.

diffusion study floor ckpt=RUN                   13 noise levels, 256 training and 256 held-out images
diffusion study floor ckpt=RUN n=1000 levels=25  narrower intervals, more levels
"""

TASK = "diffusion.tasks.study.study"
STUDIES = {  # by the first word of the command line
    "sampler": Command("study", Study, __doc__, TASK),
    "guidance": Command("study_guidance", GuidanceStudy, ABOUT_GUIDANCE, TASK),
    "floor": Command("study_floor", FloorStudy, ABOUT_FLOOR, "diffusion.tasks.study.study_floor"),
}


def main() -> None:
    words = sys.argv[1:] or ["--help"]
    kind = "sampler" if words[0].startswith("-") else words.pop(0)
    if kind not in STUDIES:
        sys.stderr.write(
            f"error: {kind}: no such study{nearest(kind, STUDIES)}; sampler, guidance or floor comes first\n"
        )
        sys.exit(2)
    STUDIES[kind](words)
