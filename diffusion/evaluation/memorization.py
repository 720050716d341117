"""Audit samples for copies of training images: `metric.memorization` on a run's data, with a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.console import console, count
from diffusion.data import ImageData
from diffusion.data.duplicates import NEAR, repeats
from diffusion.errors import UserError
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.memorization import EITHER_WAY, PIXELS, SHIFTED, Embedding, audit
from diffusion.metric.record import Reference, Score
from diffusion.metric.reference import features_of
from diffusion.report import figures, style

SHOWN = 10  # pairs in the figure
FIGURE = "figures/copies.png"
CHANCE = 0.025  # with a smaller p-value, more samples are flagged than by chance
ROWS = 32  # held-out images per comparison in the search for one that does not repeat a training image


def check_audit(kinds: Sequence[str], data: ImageData) -> None:
    """Raise UserError for data without validation images that differ from the training images."""
    if not kinds:
        return
    train, held_out = data.splits["train"].images, data.splits["val"].images
    if len(held_out) == 0:
        raise UserError("audit: no validation images to calibrate it; add some (data.val=0.1), or remove the audit")
    if all(repeats(some, train).all() for some in held_out.split(ROWS)):
        raise UserError(
            f"audit: all {len(held_out)} validation images repeat training images (within {NEAR}/255), so none can "
            f"calibrate it; remove score.audit or audit, or correct the splits"
        )


def audit_copies(
    images: Tensor, data: ImageData, kinds: Sequence[str], extractor: FeatureExtractor, folder: Path
) -> Score:
    """Compute and print the score `copies` of `images`, uint8 (n, C, H, W), and write figures/copies.png in `folder`.

    Args:
        kinds: Distances for the comparison: `pixels` (takes seconds), `features` (runs the extractor on all training
            and held-out images, whose features are then cached).
    """
    check_audit(kinds, data)
    train, held_out = data.splits["train"], data.splits["val"]
    embeddings: dict[str, Embedding] = {}
    if "pixels" in kinds:
        embeddings["pixels"] = PIXELS
    if "features" in kinds:
        real = (train.images, *(view(held_out.images) for view in EITHER_WAY))
        embeddings[extractor.name] = Embedding(
            lambda x: features_of(x, extractor, keep=any(torch.equal(x, y) for y in real)), EITHER_WAY
        )
    found = audit(images, train.images, held_out.images, embeddings, lambda x: repeats(x, train.images))
    closest: list[dict[str, Any]] = []
    nearest = []
    for i, name in found.closest(SHOWN):
        near = found.nearest[name]
        j, ratio, view = int(near.index[i]), round(float(near.ratio[i]), 4), embeddings[name].views[int(near.view[i])]
        nearest.append(train.images[j].flip(-1) if view.mirrored else train.images[j])
        flagged = bool(found.flagged[i])
        closest.append({"sample": i, "flagged": flagged, "train": train.names[j], "by": name, "ratio": ratio})
    samples = images[[pair["sample"] for pair in closest]]
    style.save(figures.copies(samples, torch.stack(nearest), [pair["ratio"] for pair in closest]), folder / FIGURE)
    low, high = found.interval()
    calibration = {"split": "val", "n": found.m, "left_out": found.left_out, "key": held_out.key}
    score = Score(
        metric="copies",
        value=found.share,
        n=found.n,
        reference=Reference("train", len(train), train.key),
        low=low,
        high=high,
        level=0.95,
        features="+".join(embeddings),
        weights_hash=extractor.weights_hash if "features" in kinds else None,
        resize=f"8x8 means in {len(SHIFTED)} views" if "pixels" in kinds else extractor.resize,
        resolution="x".join(map(str, images.shape[-2:])),
        details={
            "flagged": int(found.flagged.sum()),
            "repeats": int(found.repeats.sum()),
            "rate": found.rate,
            "p_value": found.p_value,
            "calibration": calibration,
            "thresholds": found.thresholds,
            "closest": closest,
        },
    )
    console.print(sentence(score))
    return score


def sentence(score: Score) -> str:
    """The result of an audit in one line. It counts near-duplicates, because a few copies hardly change the share."""
    details, low, high = score.details, score.low or 0.0, score.high or 0.0
    repeated, rate, calibration = details["repeats"], details["rate"], details["calibration"]
    signs = ["more than chance"] if details["p_value"] < CHANCE else []
    if repeated:
        verb = "repeats" if repeated == 1 else "repeat"
        signs.append(f"{count(repeated, 'sample')} {verb} a training image (within {NEAR}/255)")
    result = f"{' and '.join(signs)}: see the figure" if signs else "no sign of copying"
    n, out = calibration["n"], calibration["left_out"]
    left_out = (
        f"; {out} of {n + out} validation images repeat training images and are not used for calibration" if out else ""
    )
    return (
        f"copies: {details['flagged']} of {score.n} samples suspected ({score.value:.1%}, 95% interval {low:.1%} to "
        f"{high:.1%}; of held-out photographs at most {rate:.1%}): {result}{left_out}"
    )
