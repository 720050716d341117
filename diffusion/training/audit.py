"""Are samples copies of training images? The audit of `metric.copies` on a run's data, as a record and a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.console import console
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.metric.copies import Embed, audit, miniature
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.score import features_of
from diffusion.report import style
from diffusion.report.copies import pairs
from diffusion.training.provenance import code_version
from diffusion.training.scoring import Record

SHOWN = 10  # pairs in the figure
FIGURE = "figures/copies.png"
KINDS = ("pixels", "features")


def check(kinds: Sequence[str], data: ImageData | None = None) -> None:
    """Refuse a kind of distance that there isn't, and data without held-out images."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UserError(f"audit: {unknown[0]} is no distance; choose of {', '.join(KINDS)}, such as [{KINDS[0]}]")
    if kinds and data is not None and len(data.splits["val"]) == 0:
        raise UserError("audit: no validation images to calibrate it by; set data.val to a number such as 250")


def audit_samples(
    images: Tensor, data: ImageData, kinds: Sequence[str], extractor: FeatureExtractor, folder: Path, **protocol: Any
) -> list[Record]:
    """The record `copies` of `images`, uint8 (n, 3, H, W), said on the console, and figures/copies.png in `folder`.

    Args:
        kinds: distances by which an image may be a copy: `pixels` (seconds), `features` (the extractor's time for all
            training and held-out images, once; then they lie in the cache).
        protocol: what else the record carries.
    """
    check(kinds, data)
    train, held_out = data.splits["train"], data.splits["val"]
    embeddings: dict[str, Embed] = {}
    if "pixels" in kinds:
        embeddings["pixels"] = miniature
    if "features" in kinds:
        real = (train.images, held_out.images, held_out.images.flip(-1))
        embeddings[extractor.name] = lambda x: features_of(x, extractor, keep=any(torch.equal(x, y) for y in real))
    found = audit(images, train.images, held_out.images, embeddings)
    closest = found.closest(SHOWN)
    near = [found.nearest[name] for _, name in closest]
    index = [int(n.index[i]) for n, (i, _) in zip(near, closest, strict=True)]
    ratios = [round(float(n.ratio[i]), 4) for n, (i, _) in zip(near, closest, strict=True)]
    mirrored = [bool(n.flipped[i]) for n, (i, _) in zip(near, closest, strict=True)]
    shown = [train.images[j].flip(-1) if flip else train.images[j] for j, flip in zip(index, mirrored, strict=True)]
    figure = pairs(images[[i for i, _ in closest]], torch.stack(shown), [f"{ratio:.2f}" for ratio in ratios])
    style.save(figure, folder / FIGURE)
    low, high = found.interval()
    record: Record = {
        "metric": "copies",
        "value": found.share,
        "low": low,
        "high": high,
        "level": 0.95,
        "std": None,
        "what": "samples",
        "n": found.n,
        "flagged": int(found.flagged.sum()),
        "rate": found.rate,
        "features": "+".join(embeddings),
        "weights_hash": extractor.weights_hash if "features" in kinds else None,
        "resize": "8x8 means" if "pixels" in kinds else extractor.resize,
        "resolution": "x".join(map(str, images.shape[-2:])),
        "reference": {"split": "train", "n": len(train), "key": train.key},
        "calibration": {"split": "val", "n": len(held_out), "key": held_out.key},
        "thresholds": found.thresholds,
        "closest": [
            {"sample": i, "flagged": bool(found.flagged[i]), "train": train.names[j], "by": name, "ratio": ratio}
            for (i, name), ratio, j in zip(closest, ratios, index, strict=True)
        ],
        "code": code_version(),
        **protocol,
    }  # fmt: skip
    console.print(sentence(record))
    return [record]


def sentence(record: Mapping[str, Any]) -> str:
    """What an audit found, in one line."""
    share = f"copies: {record['flagged']} of {record['n']} samples suspected"
    interval = f"{record['value']:.1%}, 95% interval {record['low']:.1%} to {record['high']:.1%}"
    verdict = "more than chance: look at the figure" if record["low"] > record["rate"] else "no sign of copying"
    return f"{share} ({interval}; honest photographs: at most {record['rate']:.1%}): {verdict}"
