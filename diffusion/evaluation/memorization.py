"""Are samples copies of training images? The audit of `metric.copies` on a run's data, as a record and a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.console import console
from diffusion.data import ImageData
from diffusion.data.duplicates import NEAR, repeats
from diffusion.errors import UserError
from diffusion.evaluation.pipeline import Record
from diffusion.evaluation.test_ledger import code_version
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.memorization import EITHER_WAY, PIXELS, SHIFTED, Embedding, audit
from diffusion.metric.reference import features_of
from diffusion.report import style
from diffusion.report.pairs import pairs

SHOWN = 10  # pairs in the figure
FIGURE = "figures/copies.png"
KINDS = ("pixels", "features")
ROWS = 32  # held-out images of which one that does not repeat a training image is looked for at once


def check(kinds: Sequence[str], data: ImageData | None = None) -> None:
    """Refuse a kind of distance that there isn't, and data without held-out images that are not training images."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UserError(f"audit: {unknown[0]} is no distance; choose of {', '.join(KINDS)}, such as [{KINDS[0]}]")
    if not kinds or data is None:
        return
    train, held_out = data.splits["train"].images, data.splits["val"].images
    if len(held_out) == 0:
        raise UserError("audit: no validation images to calibrate it by; set data.val to a number such as 250")
    if all(repeats(some, train, SHIFTED).all() for some in held_out.split(ROWS)):
        raise UserError(
            f"audit: all {len(held_out)} validation images repeat training images (within {NEAR}/255), so none can "
            f"calibrate it; leave score.audit or audit empty, or mend the splits"
        )


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
    embeddings: dict[str, Embedding] = {}
    if "pixels" in kinds:
        embeddings["pixels"] = PIXELS
    if "features" in kinds:
        real = (train.images, *(view(held_out.images) for view in EITHER_WAY))
        embeddings[extractor.name] = Embedding(
            lambda x: features_of(x, extractor, keep=any(torch.equal(x, y) for y in real)), EITHER_WAY
        )
    found = audit(images, train.images, held_out.images, embeddings, lambda x: repeats(x, train.images, SHIFTED))
    closest = found.closest(SHOWN)
    near = [found.nearest[name] for _, name in closest]
    index = [int(n.index[i]) for n, (i, _) in zip(near, closest, strict=True)]
    ratios = [round(float(n.ratio[i]), 4) for n, (i, _) in zip(near, closest, strict=True)]
    mirrored = [embeddings[name].views[int(found.nearest[name].view[i])].mirrored for i, name in closest]
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
        "repeats": int(found.repeats.sum()),
        "rate": found.rate,
        "features": "+".join(embeddings),
        "weights_hash": extractor.weights_hash if "features" in kinds else None,
        "resize": f"8x8 means in {len(SHIFTED)} views" if "pixels" in kinds else extractor.resize,
        "resolution": "x".join(map(str, images.shape[-2:])),
        "reference": {"split": "train", "n": len(train), "key": train.key},
        "calibration": {
            "split": "val",
            "n": len(held_out) - found.left_out,
            "left_out": found.left_out,
            "key": held_out.key,
        },
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
    """What an audit found, in one line; an absolute likeness accuses where the share, of a few copies, can't."""
    few, held, honest = record["repeats"], record["calibration"], f"{record['rate']:.1%}"
    signs = ["more than chance"] if record["low"] > record["rate"] else []
    if few:
        signs.append(f"{few} of them {'repeats' if few == 1 else 'repeat'} a training image (within {NEAR}/255)")
    told = (
        f"copies: {record['flagged']} of {record['n']} samples suspected ({record['value']:.1%}, 95% interval "
        f"{record['low']:.1%} to {record['high']:.1%}; honest photographs: at most {honest}): "
        f"{' and '.join(signs) + ': look at the figure' if signs else 'no sign of copying'}"
    )
    out, m = held["left_out"], held["left_out"] + held["n"]
    return told + (f"; {out} of {m} validation images repeat training images and do not calibrate" if out else "")
