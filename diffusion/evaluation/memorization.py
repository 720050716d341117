"""Audit samples for copies of training images: `metric.memorization` on a run's data, with a figure."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.console import console, count
from diffusion.data import ImageData
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.memorization import audit
from diffusion.metric.record import Reference, Score
from diffusion.metric.reference import features_of
from diffusion.nearest import NEAR, mirrored
from diffusion.report import figures, style

SHOWN = 10  # pairs in the figure
CHANCE = 0.025  # with a smaller p-value, more samples are flagged than by chance


def audit_copies(images: Tensor, data: ImageData, kind: str, extractor: FeatureExtractor, folder: Path) -> Score:
    """Compute and print the score of copies among `images`, uint8 (n, C, H, W), and write a figure in `folder`.

    Args:
        kind: The distance: `pixels` (takes seconds; the score is `copies`), or `features` (runs the extractor on all
            training and held-out images, whose features are then cached; `copies_lite0` for lite0).
    """
    train, held_out = data.splits["train"], data.splits["val"]
    options: dict[str, Any] = {}
    if kind == "features":
        samples = mirrored(images)
        options = {
            "embed": lambda x: features_of(x, extractor, keep=not any(torch.equal(x, y) for y in samples)),
            "views": mirrored,
        }
    found = audit(images, train.images, held_out.images, **options)
    low, high = found.interval()
    closest = found.closest(SHOWN)
    score = Score(
        metric="copies" if kind == "pixels" else f"copies_{extractor.name}",
        value=float(found.flagged.double().mean()),
        n=len(images),
        reference=Reference("train", len(train), train.key),
        low=low,
        high=high,
        level=0.95,
        features="pixels" if kind == "pixels" else extractor.name,
        weights_hash=extractor.weights_hash if kind == "features" else None,
        resize=extractor.resize if kind == "features" else "8x8 means in 18 views",
        resolution="x".join(map(str, images.shape[-2:])),
        details={
            "flagged": int(found.flagged.sum()),
            "repeats": int(found.repeats.sum()),
            "rate": found.k / (found.m + 1),
            "p_value": found.p_value,
            "calibration": {"split": "val", "n": found.m, "left_out": len(held_out) - found.m, "key": held_out.key},
            "threshold": found.threshold,
            "closest": [
                {"sample": i, "train": train.names[int(found.nearest[i])], "ratio": round(float(found.ratio[i]), 4)}
                for i in closest
            ],
        },
    )
    shown, ratios = images[closest], [round(float(found.ratio[i]), 4) for i in closest]
    style.save(
        figures.copies(shown, facing(shown, train.images[found.nearest[closest]]), ratios),
        folder / f"figures/{score.metric}.png",
    )
    console.print(sentence(score))
    return score


def facing(samples: Tensor, nearest: Tensor) -> Tensor:
    """The nearest training images, each mirrored if that is closer to its sample."""
    both = torch.stack(mirrored(nearest))
    distance = (both.float() - samples.float()).flatten(2).norm(dim=2)
    return torch.where((distance[1] < distance[0]).view(-1, 1, 1, 1), both[1], both[0])


def sentence(score: Score) -> str:
    """The result of an audit in one line. It counts near-duplicates, because a few copies hardly change the share."""
    details, signs = score.details, []
    if details["p_value"] < CHANCE:
        signs.append("more than chance")
    if repeated := details["repeats"]:
        signs.append(f"{count(repeated, 'near-duplicate')} of training images (within {NEAR}/255)")
    return (
        f"{score.metric}: {details['flagged']} of {score.n} samples suspected ({score.value:.1%}, 95% interval "
        f"{score.low:.1%} to {score.high:.1%}; of held-out photographs at most {details['rate']:.1%}): "
        + (f"{' and '.join(signs)}: see the figure" if signs else "no sign of copying")
    )
