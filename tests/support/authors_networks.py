"""The networks of guided-diffusion, DiT, SiT and JiT, computed as their authors' code does, with its names of weights.

After github.com/openai/guided-diffusion (MIT licence, © 2021 OpenAI) and github.com/LTH14/JiT (MIT licence, © 2025
Tianhong Li); the formulas of DiT and SiT are those of github.com/facebookresearch/DiT and github.com/willisma/SiT.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def waves(t: Tensor, dim: int) -> Tensor:
    args = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(dim // 2, dtype=torch.float32) / (dim // 2))
    return torch.cat([args.cos(), args.sin()], dim=-1)


class ResBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, features: int, way: str = ""):
        super().__init__()
        self.way = way
        self.in_layers = nn.Sequential(nn.GroupNorm(32, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(features, 2 * c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, c_out), nn.SiLU(), nn.Dropout(0), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def resample(self, x: Tensor) -> Tensor:
        if self.way == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2, 2) if self.way == "down" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[2](self.resample(self.in_layers[:2](x)))
        scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        return self.skip_connection(self.resample(x)) + h


class AttentionBlock(nn.Module):
    def __init__(self, channels: int, head_channels: int, new_order: bool):
        super().__init__()
        self.heads, self.new_order = channels // head_channels, new_order
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        b, c = x.shape[:2]
        flat = x.reshape(b, c, -1)
        qkv, dim = self.qkv(self.norm(flat)), c // self.heads
        if self.new_order:
            q, k, v = (part.reshape(b * self.heads, dim, -1) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(b * self.heads, 3 * dim, -1).split(dim, dim=1)
        scale = dim**-0.25
        weight = torch.einsum("bct,bcs->bts", q * scale, k * scale).softmax(-1)
        a = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, -1)
        return (flat + self.proj_out(a)).reshape(x.shape)


class Parts(nn.Sequential):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, emb)
        return x


class UNetModel(nn.Module):
    """guided-diffusion's, with its options `resblock_updown` and `use_scale_shift_norm`."""

    def __init__(
        self, width: int, mult: list[int], blocks: int, attends: list[int], head: int, classes: int, new_order: bool
    ):
        super().__init__()
        self.width, features, last = width, 4 * width, len(mult) - 1
        self.time_embed = nn.Sequential(nn.Linear(width, features), nn.SiLU(), nn.Linear(features, features))
        if classes:
            self.label_emb = nn.Embedding(classes, features)
        ch, skips, self.input_blocks = mult[0] * width, [mult[0] * width], nn.ModuleList()
        self.input_blocks.append(Parts(nn.Conv2d(3, ch, 3, padding=1)))
        for level, m in enumerate(mult):
            for _ in range(blocks):
                parts: list[nn.Module] = [ResBlock(ch, m * width, features)]
                ch = m * width
                parts += [AttentionBlock(ch, head, new_order)] if 2**level in attends else []
                self.input_blocks.append(Parts(*parts))
                skips.append(ch)
            if level < last:
                self.input_blocks.append(Parts(ResBlock(ch, ch, features, "down")))
                skips.append(ch)
        middle = ResBlock(ch, ch, features), AttentionBlock(ch, head, new_order), ResBlock(ch, ch, features)
        self.middle_block, self.output_blocks = Parts(*middle), nn.ModuleList()
        for level, m in [*enumerate(mult)][::-1]:
            for i in range(blocks + 1):
                parts = [ResBlock(ch + skips.pop(), m * width, features)]
                ch = m * width
                parts += [AttentionBlock(ch, head, new_order)] if 2**level in attends else []
                parts += [ResBlock(ch, ch, features, "up")] if level and i == blocks else []
                self.output_blocks.append(Parts(*parts))
        self.out = nn.Sequential(nn.GroupNorm(32, ch), nn.SiLU(), nn.Conv2d(ch, 6, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        emb = self.time_embed(waves(timesteps, self.width))
        emb = emb if y is None else emb + self.label_emb(y)
        h, hs = x, []
        for block in self.input_blocks:
            h = block(h, emb)
            hs.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, hs.pop()], dim=1), emb)
        return self.out(h)


class Norm(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def named(**modules: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(modules)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


def table(grid: int, width: int) -> Tensor:
    position, omega = torch.arange(grid).double(), 10000 ** -(torch.arange(width // 4).double() / (width // 4))
    row, column = (p.flatten()[:, None] * omega for p in torch.meshgrid(position, position, indexing="ij"))
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1).float()


class DiT(nn.Module):
    """DiT's and SiT's, in latents (B, 4, side, side), with twice as many outputs. SiT's are its first four."""

    def __init__(self, side: int, width: int, depth: int, heads: int, classes: int, patch: int = 2):
        super().__init__()
        self.side, self.patch, self.heads = side, patch, heads
        self.x_embedder = named(proj=nn.Conv2d(4, width, patch, patch))
        mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.t_embedder, self.y_embedder = named(mlp=mlp), named(embedding_table=nn.Embedding(classes + 1, width))
        self.pos_embed = nn.Parameter(table(side // patch, width)[None], requires_grad=False)
        self.blocks = nn.ModuleList(
            named(
                attn=named(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)),
                mlp=named(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width)),
                adaLN_modulation=nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width)),
            )
            for _ in range(depth)
        )
        final = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.final_layer = named(linear=nn.Linear(width, 8 * patch**2), adaLN_modulation=final)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        c = self.t_embedder["mlp"](waves(t, 256)) + self.y_embedder["embedding_table"](y)
        (B, N, width), norm = h.shape, lambda h: F.layer_norm(h, h.shape[-1:], eps=1e-6)
        for block in self.blocks:
            shift1, scale1, gate1, shift2, scale2, gate2 = block["adaLN_modulation"](c).chunk(6, dim=1)
            qkv = block["attn"]["qkv"](modulated(norm(h), shift1, scale1))
            q, k, v = qkv.reshape(B, N, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            weight = (q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)).softmax(-1)
            h = h + gate1[:, None] * block["attn"]["proj"]((weight @ v).transpose(1, 2).reshape(B, N, width))
            a = F.gelu(block["mlp"]["fc1"](modulated(norm(h), shift2, scale2)), approximate="tanh")
            h = h + gate2[:, None] * block["mlp"]["fc2"](a)
        shift, scale = self.final_layer["adaLN_modulation"](c).chunk(2, dim=1)
        h = self.final_layer["linear"](modulated(norm(h), shift, scale))
        grid = self.side // self.patch
        h = h.reshape(B, grid, grid, self.patch, self.patch, 8)
        return torch.einsum("nhwpqc->nchpwq", h).reshape(B, 8, self.side, self.side)


class JiTBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, hidden, dim = heads, int(int(4.0 * width) * 2 / 3), width // heads
        self.norm1, self.norm2 = Norm(width), Norm(width)
        self.attn = named(
            q_norm=Norm(dim), k_norm=Norm(dim), qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)
        )
        self.mlp = named(w12=nn.Linear(width, 2 * hidden), w3=nn.Linear(hidden, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def attend(self, x: Tensor, angle: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.attn["qkv"](x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k = (rotated(self.attn[f"{name}_norm"](part), angle) for name, part in (("q", q), ("k", k)))
        weight = (q @ k.transpose(-2, -1) / math.sqrt(C // self.heads)).softmax(-1)
        return self.attn["proj"]((weight @ v).transpose(1, 2).reshape(B, N, C))

    def forward(self, x: Tensor, c: Tensor, angle: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = x + gate1[:, None] * self.attend(modulated(self.norm1(x), shift1, scale1), angle)
        a, b = self.mlp["w12"](modulated(self.norm2(x), shift2, scale2)).chunk(2, dim=-1)
        return x + gate2[:, None] * self.mlp["w3"](F.silu(a) * b)


def rotated(x: Tensor, angle: Tensor) -> Tensor:
    """Turn the features (2k, 2k + 1) by the angle of each token (N, dim/2)."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1).flatten(-2)


class JiT(nn.Module):
    def __init__(
        self, side: int, patch: int, width: int, depth: int, heads: int, classes: int, bottleneck: int, context: int,
        start: int,
    ):  # fmt: skip
        super().__init__()
        self.patch, self.grid, self.context, self.start = patch, side // patch, context, start
        mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.t_embedder = named(mlp=mlp)
        self.y_embedder = named(embedding_table=nn.Embedding(classes + 1, width))
        self.x_embedder = named(
            proj1=nn.Conv2d(3, bottleneck, patch, patch, bias=False), proj2=nn.Conv2d(bottleneck, width, 1)
        )
        self.pos_embed = nn.Parameter(table(self.grid, width)[None], requires_grad=False)
        position = torch.arange(self.grid)
        self.in_context_posemb = nn.Parameter(torch.zeros(1, context, width))
        omega = 1 / 10000 ** (torch.arange(0, width // heads // 2, 2).float() / (width // heads // 2))
        angles = (p.float().flatten()[:, None] * omega for p in torch.meshgrid(position, position, indexing="ij"))
        self.angle = torch.cat([*angles], dim=1)
        self.blocks = nn.ModuleList(JiTBlock(width, heads) for _ in range(depth))
        final = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.final_layer = named(norm_final=Norm(width), linear=nn.Linear(width, 3 * patch**2), adaLN_modulation=final)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        of_class = self.y_embedder["embedding_table"](y)
        c = self.t_embedder["mlp"](waves(t, 256)) + of_class
        h = self.x_embedder["proj2"](self.x_embedder["proj1"](x)).flatten(2).transpose(1, 2) + self.pos_embed
        angle = self.angle
        for i, block in enumerate(self.blocks):
            if i == self.start:
                h = torch.cat([of_class[:, None].repeat(1, self.context, 1) + self.in_context_posemb, h], dim=1)
                angle = F.pad(angle, (0, 0, self.context, 0))
            h = block(h, c, angle)
        h = h[:, self.context :]
        shift, scale = self.final_layer["adaLN_modulation"](c).chunk(2, dim=1)
        h = self.final_layer["linear"](modulated(self.final_layer["norm_final"](h), shift, scale))
        h = h.reshape(len(h), self.grid, self.grid, self.patch, self.patch, 3)
        return torch.einsum("nhwpqc->nchpwq", h).reshape(x.shape)
