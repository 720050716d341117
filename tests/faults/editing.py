"""Faults in inpainting, SDEdit, interpolation of noise, and the commands that use them."""

from faults.fault import Fault

INPAINTING = "process/test_inpainting.py"
EDITING = "process/test_editing.py"
COMMAND = "edit/test_edit.py"
STUDIO = "studio/test_requests.py"

FAULTS = [
    Fault(
        "RePaint: the known pixels have no noise",
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
        "RePaint: wrong variance when noise is added back",
        "added = t.sigma * math.sqrt(-math.expm1(2 * (",
        "added = t.sigma * math.sqrt(-math.expm1(1 * (",
        INPAINTING,
    ),
    Fault(
        "RePaint: x is not scaled when noise is added back",
        "t.alpha / s.alpha * x_s + added",
        "x_s + added",
        INPAINTING,
    ),
    Fault("RePaint: one pass too many", "reversed(range(self.passes", "reversed(range(1 + self.passes", INPAINTING),
    Fault("RePaint: the last step is repeated too", "self.passes if s.sigma > 0 else 1", "self.passes", INPAINTING),
    Fault("RePaint: estimates of earlier steps are used", "t, s, [], streams)", "t, s, past, streams)", INPAINTING),
    Fault(
        "split Gibbs: the known pixels keep their noise",
        "self.with_known(x_t, t.alpha * self.picture)",
        "x_t",
        INPAINTING,
    ),
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
        "inpainting: the mask is inverted",
        "torch.where(self.known.to(x.device), values.to(x), x)",
        "torch.where(self.known.to(x.device), x, values.to(x))",
        INPAINTING,
    ),
    Fault(
        "inpainting: known pixels are not restored at the end",
        "return self.with_known(x, self.picture)",
        "return x",
        INPAINTING,
    ),
    Fault("inpainting: a mask with nothing to fill is accepted", "if bool(known.all()):", "if False:", INPAINTING),
    Fault("SDEdit: one step too few", "self.inner.steps - self.steps]", "self.inner.steps - self.steps + 1]", EDITING),
    Fault("SDEdit: zero steps are possible", "max(1, round(self.strength", "max(0, round(self.strength", EDITING),
    Fault("SDEdit: a strength out of range is accepted", "if not 0 < self.strength <= 1:", "if False:", EDITING),
    Fault("SDEdit: evaluations are not counted", "        self.evaluations = self.inner.evaluations\n", "", EDITING),
    Fault(
        "interpolation: the angles lack the factor π/2",
        "[w * math.pi / 2 for w in shares]",
        "[w for w in shares]",
        EDITING,
    ),
    Fault("interpolation: only the first noise is used", "a + expand(a.new_tensor(sin), a) * b", "a", EDITING),
    Fault(
        "interpolation: equal seeds are accepted",
        "if any(a == b for a, b in zip(seeds, others, strict=True)):",
        "if False:",
        EDITING,
    ),
    Fault(
        "interpolation: the last image is not the end point",
        "[i / max(1, n - 1) for i in indices]",
        "[i / n for i in indices]",
        COMMAND,
    ),
    Fault(
        "interpolation: each image gets another class",
        "{name: row.expand(n) for name",
        "{name: row.repeat(n) + torch.arange(n) for name",
        COMMAND,
    ),
    Fault("edit: black is filled instead of white", "return values[0] > GREY", "return values[0] <= GREY", COMMAND),
    Fault("edit: a mask with other proportions is accepted", "abs(proportions / others - 1) > 0.02", "False", COMMAND),
    Fault(
        "edit: pictures that are too small are accepted",
        "return decoded(file, resolution, channels=channels)",
        "return decoded(file, channels=channels)",
        COMMAND,
    ),
    Fault("edit: the recorded command has no seed", '"seed": settings.seed}', '"weights": settings.weights}', COMMAND),
    Fault(
        "studio: a number out of range is accepted",
        "type(value) not in (int, float) or not low <= value <= high",
        "False",
        STUDIO,
    ),
    Fault(
        "studio: a class is passed by name instead of number",
        'f"label={[*labels].index(value)}"',
        'f"label={value}"',
        STUDIO,
    ),
    Fault("studio: an unknown class is accepted", "if value not in labels:", "if False:", STUDIO),
    Fault(
        "studio: an unknown setting is ignored",
        'raise UserError(f"{key}: the studio has no such setting")',
        "continue",
        STUDIO,
    ),
    Fault(
        "studio: the recorded command has no seed",
        '[f"seed={seed}"] if request.values.get("seed") is None else []',
        "[]",
        STUDIO,
    ),
    Fault("studio: the record contains an absolute path", '"/".join(full.parts[-3:])', "str(full)", STUDIO),
    Fault("studio: generation continues after a stop", "if stop.is_set():", "if False:", STUDIO),
    Fault(
        "studio: the nearest images are not searched mirrored",
        "torch.stack([image, image.flip(-1)])",
        "torch.stack([image, image])",
        STUDIO,
    ),
]
