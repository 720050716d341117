"""Faults in the safeguards against settings of a wrong type, and against resuming with another recipe."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

BAD = "training/test_bad_input.py::test_a_setting_is_refused_before_any_image_is_read"
KINDS = "test_settings.py::test_arguments_are_what_their_annotations_say"
ON = "training/test_resume.py"
OTHER = f"{ON}::test_another_diffusion_or_state_is_refused_and_the_run_stays_as_it_was"

FOLLOWED = "training/test_train_command.py::test_what_follows_other_settings_makes_a_complete_job_no_other_one"

FAULTS = [
    Fault(
        "settings are not checked",
        "return validated(schema, values)",
        "return schema.model_construct(**values)",
        BAD,
    ),
    Fault("arguments are not checked", "        if callable(named):  # else", "        if False:  # else", BAD),
    Fault(
        "parts' arguments are not checked",
        '        check_node(value, f"{where}.{key}")\n',
        "        pass\n",
        BAD,
    ),
    Fault(
        "what is made late is checked late",
        "            check_node(settings.model_dump().get(group), group)\n",
        "            pass\n",
        BAD,
    ),
    Fault("true is a whole number", "ConfigDict(strict=True, protected", "ConfigDict(strict=False, protected", BAD),
    Fault("NaN is a number", "if math.isnan(value):", "if False:", BAD),
    Fault("a text is a list of letters", "    if isinstance(value, PLAIN):\n", "    if False:\n", KINDS),
    Fault("a parent's arguments are unknown", "for parent in target.__mro__ if", "for parent in [target] if", KINDS),
    Fault(
        "any parent's arguments are known",
        "        if inspect.Parameter.VAR_KEYWORD not in kinds:\n            break",
        "        if False:\n            break",
        KINDS,
    ),
    Fault("a choice that is not there", 'at.MinLen(1), Words("a choice', 'Words("a choice', BAD),
    Fault("no settings at all", "    if field.annotation is model:\n", "    if False:\n", BAD),
    Fault(
        "a run goes on with the defaults",
        'resumed = resume.resumed_run(words) if name == "train" else None',
        "resumed = None",
        ON,
    ),
    Fault(
        "its words drown the new ones",
        "        for override in self.overrides:\n            for place",
        "        for override in self.overrides[:0]:\n            for place",
        ON,
    ),
    Fault("another diffusion goes on", "if key.startswith(FIXED)", "if False", OTHER),
    Fault("another recipe in silence", "if key.startswith(REPORTED)", "if False", ON),
    Fault("a refusal is the run's end", 'if "steps" in self.content or not self.previous:', "if True:", OTHER),
    Fault("complete, but for what has followed", 'config | record.content.get("asked", {})', "config", FOLLOWED),
    Fault("complete, and run again", ' or settings.ckpt == "auto") and is_complete', ") and is_complete", ON),
    Fault("nothing is left to train", "if resumed.step > total or", "if False and", ON),
    Fault(
        "validations that never come",
        "math.ceil(interval / accumulate)",
        "math.ceil(min(interval, batches) / accumulate)",
        ON,
    ),
    Fault(
        "no image goes through the sampler",
        '    replace_part(drawing, sampler=short)(module.denoiser, 1, torch.device("cpu"))\n',
        "",
        ON,
    ),
]
