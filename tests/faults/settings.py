"""Guards against settings of a wrong kind, and against going on with another recipe."""

# Libraries are imported here, and not in each copy's process, for speed; nothing of the project's.
import lightning.pytorch  # noqa: F401
import torchmetrics  # noqa: F401
import torchvision  # noqa: F401
from faults.fault import Fault

CHECKS = "training/checks.py"
SETTINGS = "config/settings.py"

BAD = "training/test_bad_input.py::test_a_setting_is_refused_before_any_image_is_read"
KINDS = "test_settings.py::test_arguments_are_what_their_annotations_say"
ON = "training/test_going_on.py"
OTHER = f"{ON}::test_another_diffusion_or_state_is_refused_and_the_run_is_as_it_was"

FAULTS = [
    Fault(
        "settings are not checked",
        "config/command.py",
        "                settings.check(config_name, config)\n",
        "",
        BAD,
    ),
    Fault(
        "arguments are not checked", "config/build.py", "        check_arguments(named, arguments, where)\n", "", BAD
    ),
    Fault(
        "parts' arguments are not checked",
        "config/build.py",
        '        check_kinds(value, f"{where}.{key}")\n',
        "        pass\n",
        BAD,
    ),
    Fault(
        "what is made late is checked late",
        CHECKS,
        "        check_kinds(cfg.get(group), group)\n",
        "        pass\n",
        BAD,
    ),
    Fault("true is a whole number", SETTINGS, "type(value) is int and", "isinstance(value, int) and", BAD),
    Fault("NaN is a number", SETTINGS, "value == value and ", "", BAD),
    Fault("a text is a list of letters", SETTINGS, "fits = isinstance(value, list | tuple) and", "fits =", KINDS),
    Fault(
        "a parent's arguments are unknown", SETTINGS, "for parent in target.__mro__:", "for parent in [target]:", KINDS
    ),
    Fault("any parent's arguments are known", SETTINGS, "                break\n", "                pass\n", KINDS),
    Fault("a choice that is not there", SETTINGS, "if not config.get(group):", "if False:", BAD),
    Fault("no settings at all", SETTINGS, "if not isinstance(config.get(section), Mapping):", "if False:", BAD),
    Fault("a run goes on with the defaults", "runs/naming.py", "return [*kept, *words]", "return words", ON),
    Fault("its words drown the new ones", "runs/naming.py", ".startswith(over)", ".startswith(())", ON),
    Fault("another diffusion goes on", CHECKS, "if key.startswith(SAME)", "if False", OTHER),
    Fault("another recipe in silence", CHECKS, "if key.startswith(TOLD)", "if False", ON),
    Fault(
        "a refusal is the run's end", "runs/jobs.py", ' if "steps" in record or not before else dict(before)', "", OTHER
    ),
    Fault("complete, and run again", "runs/jobs.py", ' or cfg.ckpt == "auto"\n', "\n", ON),
    Fault("nothing is left to train", CHECKS, "if resumed.step > total or", "if False and", ON),
    Fault("validations that never come", CHECKS, "if isinstance(every, int) and", "if False and", ON),
    Fault(
        "no image goes through the sampler",
        CHECKS,
        "few(module.denoiser, torch.zeros_like(image), Streams([0]))",
        "pass",
        ON,
    ),
]
