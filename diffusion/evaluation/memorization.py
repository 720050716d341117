"""Audit samples for copies of training images: `metric.memorization` on a run's data, with a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.console import console, count
from diffusion.data import ImageData
from diffusion.errors import UserError
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.memorization import Audit, audit
from diffusion.metric.record import Reference, Score
from diffusion.metric.reference import features_of
from diffusion.nearest import NEAR, mirrored, repeats
from diffusion.report import figures, style

SHOWN = 10  # pairs in the figure
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


def audit_copies(images: Tensor, data: ImageData, kind: str, extractor: FeatureExtractor, folder: Path) -> Score:
    """Compute and print the score of copies among `images`, uint8 (n, C, H, W), and write a figure in `folder`.

    Args:
        kind: The distance: `pixels` (takes seconds; the score is `copies`), or `features` (runs the extractor on all
            training and held-out images, whose features are then cached; `copies_lite0` for lite0).
    """
    check_audit([kind], data)
    train, held_out = data.splits["train"], data.splits["val"]
    options: dict[str, Any] = {}
    resize, name = "8x8 means in 18 views", "copies"
    if kind == "features":
        samples = mirrored(images)
        options = {
            "embed": lambda x: features_of(x, extractor, keep=not any(torch.equal(x, y) for y in samples)),
            "views": mirrored,
        }
        resize, name = extractor.resize, f"copies_{extractor.name}"
    found = audit(images, train.images, held_out.images, **options)
    low, high = found.interval()
    score = Score(
        metric=name,
        value=float(found.flagged.double().mean()),
        n=len(images),
        reference=Reference("train", len(train), train.key),
        low=low,
        high=high,
        level=0.95,
        features="pixels" if kind == "pixels" else extractor.name,
        weights_hash=extractor.weights_hash if kind == "features" else None,
        resize=resize,
        resolution="x".join(map(str, images.shape[-2:])),
        details={
            "flagged": int(found.flagged.sum()),
            "repeats": int(found.repeats.sum()),
            "rate": found.k / (found.m + 1),
            "p_value": found.p_value,
            "calibration": {"split": "val", "n": found.m, "left_out": len(held_out) - found.m, "key": held_out.key},
            "threshold": found.threshold,
            "closest": [
                {
                    "sample": i,
                    "flagged": bool(found.flagged[i]),
                    "train": train.names[int(found.nearest[i])],
                    "ratio": round(float(found.ratio[i]), 4),
                }
                for i in found.closest(SHOWN)
            ],
        },
    )
    _draw(images, train.images, found, folder / f"figures/{name}.png")
    console.print(sentence(score))
    return score


def _draw(images: Tensor, train: Tensor, found: Audit, file: Path) -> None:
    """The most suspicious samples above their nearest training images, mirrored if that is closer."""
    chosen = found.closest(SHOWN)
    samples = images[chosen]
    both = torch.stack(mirrored(train[found.nearest[chosen]]))
    distance = (both.float() - samples.float()).flatten(2).norm(dim=2)
    nearest = torch.where((distance[1] < distance[0]).view(-1, 1, 1, 1), both[1], both[0])
    style.save(figures.copies(samples, nearest, [round(float(found.ratio[i]), 4) for i in chosen]), file)


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
        f"{score.metric}: {details['flagged']} of {score.n} samples suspected ({score.value:.1%}, 95% interval "
        f"{low:.1%} to {high:.1%}; of held-out photographs at most {rate:.1%}): {result}{left_out}"
    )
