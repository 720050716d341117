"""Train the bundled autoencoder, `encoder=small`: diffusers' AutoencoderDC, factor 4, four channels of latents.

    python -m docs.autoencoder FOLDER [STEPS]

It trains on 64×64 crops of the training tiles of 128×128, on one core. The loss is the mean absolute error of the
decoded crops. The latents are noised with a fixed deviation s, and their mean square is penalised, as in a variational
autoencoder: the KL divergence of N(z, s²) from N(0, 1) is z²/2 and a constant. So the decoder tolerates small errors of
the latents, which a diffusion model makes. The weights are written in half precision, and the PSNR of the validation
tiles is printed.
"""

import sys
from typing import Any

import lightning.pytorch as pl
import torch
from diffusers import AutoencoderDC
from torch import Tensor

from diffusion.data import Batch, Landscapes
from diffusion.data.encoder import VAE

STEPS, BATCH, CROP = 3200, 8, 64
NOISE, PENALTY, RATE = 0.1, 1e-3, 2e-3
SIZES: dict[str, Any] = {
    "latent_channels": 4, "encoder_block_out_channels": (32, 32, 64), "decoder_block_out_channels": (32, 32, 64),
    "encoder_layers_per_block": (0, 1, 2), "decoder_layers_per_block": (0, 2, 3),
    "encoder_qkv_multiscales": ((), (), ()), "decoder_qkv_multiscales": ((), (), ()),
}  # fmt: skip


class Training(pl.LightningModule):
    """Trains `network` for a number of steps."""

    def __init__(self, steps: int):
        super().__init__()
        self.network, self.steps = AutoencoderDC(**SIZES), steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        row, column = torch.randint(batch.image.shape[-1] - CROP + 1, (2,)).tolist()
        x = batch.image[..., row : row + CROP, column : column + CROP]
        z = self.network.encode(x).latent
        error = (self.network.decode(z + NOISE * torch.randn_like(z)).sample - x).abs().mean()
        if batch_idx % 200 == 0:
            print(f"step {self.global_step}: error {error:.4f}, deviation of the latents {z.std():.2f}", flush=True)
        return error + PENALTY * z.square().mean() / 2

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), RATE, weight_decay=0)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, self.steps, pct_start=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


def main(folder: str, steps: int = STEPS) -> None:
    """Train, and write the folder."""
    torch.set_num_threads(1)
    pl.seed_everything(0)
    module, data = Training(steps), Landscapes(resolution=128, batch_size=BATCH)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", gradient_clip_val=1.0, use_distributed_sampler=False, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data)
    module.network.half().save_pretrained(folder)
    encoder, x = VAE(folder), data.kind.inside(data.splits["val"].images)
    with torch.no_grad():
        again = torch.cat([encoder.decode(encoder.encode(part)).clamp(-1, 1) for part in x.split(10)])
    psnr = -10 * ((again - x) / 2).square().flatten(1).mean(dim=1).log10()
    print(f"{len(x)} validation tiles: PSNR {psnr.mean():.2f} dB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
