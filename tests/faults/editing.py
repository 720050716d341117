"""Faults in inpainting, SDEdit, interpolation of noise, and the command that uses them."""

from faults.fault import Fault

INPAINTING = "process/test_inpainting.py"
EDITING = "process/test_editing.py"
COMMAND = "edit/test_edit.py"
STUDIO = "studio/test_requests.py"

FAULTS = [
    Fault(
        "RePaint: the known pixels are without noise",
        "t.alpha * self.picture.to(x_t) + t.sigma * streams.normal_like(x_t)",
        "t.alpha * self.picture.to(x_t)",
        INPAINTING,
    ),
    Fault(
        "RePaint: the known pixels are not scaled",
        "t.alpha * self.picture.to(x_t) + t.sigma",
        "self.picture.to(x_t) + t.sigma",
        INPAINTING,
    ),
    Fault(
        "RePaint: half of the variance on the way back",
        "added = t.sigma * math.sqrt(-math.expm1(2 * (",
        "added = t.sigma * math.sqrt(-math.expm1(1 * (",
        INPAINTING,
    ),
    Fault("RePaint: not scaled on the way back", "t.alpha / s.alpha * x_s + added", "x_s + added", INPAINTING),
    Fault("RePaint: one pass too many", "reversed(range(self.passes", "reversed(range(1 + self.passes", INPAINTING),
    Fault("RePaint: the last step too", "self.passes if s.sigma > 0 else 1", "self.passes", INPAINTING),
    Fault("RePaint: earlier estimates are used", "t, s, [], streams)", "t, s, past, streams)", INPAINTING),
    Fault("split Gibbs: the unknown too", "self.with_known(x_t, t.alpha * self.picture)", "x_t", INPAINTING),
    Fault(
        "split Gibbs: the known pixels are not scaled",
        "self.with_known(x_t, t.alpha * self.picture)",
        "self.with_known(x_t, self.picture)",
        INPAINTING,
    ),
    Fault("split Gibbs: evaluations are not counted", "denoise.evaluations += self.inner.evaluations", "", INPAINTING),
    Fault(
        "split Gibbs: no noise between rounds",
        "s.alpha * x0 + s.sigma * streams",
        "s.alpha * x0 + 0 * streams",
        INPAINTING,
    ),
    Fault(
        "inpainting: the mask is turned around",
        "torch.where(self.known.to(x.device), values.to(x), x)",
        "torch.where(self.known.to(x.device), x, values.to(x))",
        INPAINTING,
    ),
    Fault("inpainting: known pixels are drawn", "return self.with_known(x, self.picture)", "return x", INPAINTING),
    Fault("inpainting: nothing to fill", "if bool(known.all()):", "if False:", INPAINTING),
    Fault("SDEdit: one step fewer", "self.inner.steps - self.steps]", "self.inner.steps - self.steps + 1]", EDITING),
    Fault("SDEdit: no step", "max(1, round(self.strength", "max(0, round(self.strength", EDITING),
    Fault("SDEdit: any strength", "if not 0 < self.strength <= 1:", "if False:", EDITING),
    Fault("SDEdit: evaluations are not counted", "        self.evaluations = self.inner.evaluations\n", "", EDITING),
    Fault("between: on a line", "[w * math.pi / 2 for w in shares]", "[w for w in shares]", EDITING),
    Fault("between: the first noise only", "a + expand(a.new_tensor(sin), a) * b", "a", EDITING),
    Fault("between: equal seeds", "if any(a == b for a, b in zip(seeds, others, strict=True)):", "if False:", EDITING),
    Fault(
        "between: the last is not the end", "[i / max(1, n - 1) for i in indices]", "[i / n for i in indices]", COMMAND
    ),
    Fault(
        "between: classes in turn",
        "{name: row.expand(n) for name",
        "{name: row.repeat(n) + torch.arange(n) for name",
        COMMAND,
    ),
    Fault("edit: black is filled", "return mask[0] > GREY", "return mask[0] <= GREY", COMMAND),
    Fault("edit: a mask of other proportions", "abs(proportions / others - 1) > 0.02", "False", COMMAND),
    Fault(
        "edit: small pictures",
        "decoded(file, resolution, channels=channels) as picture",
        "decoded(file, channels=channels) as picture",
        COMMAND,
    ),
    Fault("edit: the record has no seed", '"seed": settings.seed}', '"weights": settings.weights}', COMMAND),
    Fault("studio: any number", "type(value) not in (int, float) or not low <= value <= high", "False", STUDIO),
    Fault("studio: a class by its name", 'f"label={[*labels].index(value)}"', 'f"label={value}"', STUDIO),
    Fault("studio: any class", "if value not in labels:", "if False:", STUDIO),
    Fault("studio: any setting", 'raise UserError(f"{key}: the studio has no such setting")', "continue", STUDIO),
    Fault(
        "studio: the command has no seed",
        '[f"seed={seed}"] if request.values.get("seed") is None else []',
        "[]",
        STUDIO,
    ),
    Fault("studio: the record says where it is", '"/".join(full.parts[-3:])', "str(full)", STUDIO),
    Fault("studio: it goes on after a stop", "if stop.is_set():", "if False:", STUDIO),
    Fault(
        "studio: no mirrored neighbours", "torch.stack([image, image.flip(-1)])", "torch.stack([image, image])", STUDIO
    ),
]
