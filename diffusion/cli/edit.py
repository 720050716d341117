"""Draw variants of a picture, fill or enlarge it, undo an operator, or draw images between two noises.

diffusion edit ckpt=RUN image=PICTURE strength=0.6                  SDEdit: noise the picture, then denoise it
diffusion edit ckpt=RUN image=PICTURE mask=MASK                     fill it where the mask is white
diffusion edit ckpt=… image=… mask=… inpainting=split_gibbs sampler=dpm_2m_sde    with another method
diffusion edit ckpt=RUN image=PICTURE operator=downsampling         enlarge it; also blur, grey
diffusion edit ckpt=RUN interpolate=[0,1] n=12                      interpolate between two seeds
diffusion edit ckpt=SUPER upscale=PICTURE                           enlarge a picture of any size
"""

from diffusion.config.schema import Edit
from diffusion.runs.command import Command

main = Command("edit", Edit, __doc__, "diffusion.tasks.edit.draw_edits")
