"""Are samples copies of training images? The audit of `metric.memorization` on a run's data, with its figure."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffusion.console import console
from diffusion.data import ImageData
from diffusion.data.duplicates import NEAR, repeats
from diffusion.errors import UserError
from diffusion.metric.features import FeatureExtractor
from diffusion.metric.memorization import EITHER_WAY, PIXELS, SHIFTED, Embedding, audit
from diffusion.metric.record import Reference, Score
from diffusion.metric.reference import features_of
from diffusion.report import style

SHOWN = 10  # pairs in the figure
FIGURE = "figures/copies.png"
ROWS = 32  # held-out images that are searched at once for one that does not repeat a training image


def check_audit(kinds: Sequence[str], data: ImageData) -> None:
    """Raise UserError for data without held-out images that differ from the training images."""
    if not kinds:
        return
    train, held_out = data.splits["train"].images, data.splits["val"].images
    if len(held_out) == 0:
        raise UserError("audit: no validation images to calibrate it; set data.val to a number such as 250")
    if all(repeats(some, train, SHIFTED).all() for some in held_out.split(ROWS)):
        raise UserError(
            f"audit: all {len(held_out)} validation images repeat training images (within {NEAR}/255), so none can "
            f"calibrate it; leave out score.audit or audit, or correct the splits"
        )


def audit_copies(
    images: Tensor, data: ImageData, kinds: Sequence[str], extractor: FeatureExtractor, folder: Path
) -> Score:
    """The score `copies` of `images`, uint8 (n, 3, H, W), printed too, and figures/copies.png in `folder`.

    Args:
        kinds: Distances by which an image may be a copy: `pixels` (takes seconds), `features` (takes the extractor's
            time for all training and held-out images; then they are cached).
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
    found = audit(images, train.images, held_out.images, embeddings, lambda x: repeats(x, train.images, SHIFTED))
    closest = found.closest(SHOWN)
    near = [found.nearest[name] for _, name in closest]
    index = [int(n.index[i]) for n, (i, _) in zip(near, closest, strict=True)]
    ratios = [round(float(n.ratio[i]), 4) for n, (i, _) in zip(near, closest, strict=True)]
    mirrored = [embeddings[name].views[int(found.nearest[name].view[i])].mirrored for i, name in closest]
    shown = [train.images[j].flip(-1) if flip else train.images[j] for j, flip in zip(index, mirrored, strict=True)]
    above, below = (x.permute(0, 2, 3, 1).numpy() for x in (images[[i for i, _ in closest]], torch.stack(shown)))
    figure = style.image_pairs(above, below, [f"{ratio:.2f}" for ratio in ratios])
    style.save(figure, folder / FIGURE)
    low, high = found.interval()
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
        },
    )
    console.print(sentence(score))
    return score


def sentence(score: Score) -> str:
    """What an audit found, in one line. The share says nothing of a few copies; near-duplicates do."""
    details, share, low, high = score.details, score.value, score.low or 0.0, score.high or 0.0
    few, calibration, honest = details["repeats"], details["calibration"], f"{details['rate']:.1%}"
    signs = ["more than chance"] if low > details["rate"] else []
    if few:
        signs.append(f"{few} of them {'repeats' if few == 1 else 'repeat'} a training image (within {NEAR}/255)")
    text = (
        f"copies: {details['flagged']} of {score.n} samples suspected ({share:.1%}, 95% interval "
        f"{low:.1%} to {high:.1%}; honest photographs: at most {honest}): "
        f"{' and '.join(signs) + ': look at the figure' if signs else 'no sign of copying'}"
    )
    out, m = calibration["left_out"], calibration["left_out"] + calibration["n"]
    return text + (f"; {out} of {m} validation images repeat training images and do not calibrate" if out else "")
