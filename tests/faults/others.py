"""Faults in models to and from diffusers, and in runs that start from a model: each removes one safeguard."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import diffusers  # noqa: F401
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

FOLDERS = "evaluation/test_diffusers_folders.py"
HOSTILE = f"{FOLDERS}::test_an_invalid_folder_gives_a_one_line_error"
REFUSED = f"{FOLDERS}::test_unsupported_models_are_refused_before_anything_is_written"
SAMPLERS = f"{FOLDERS}::test_diffusers_reproduces_samples_of_our_samplers"
READ = "evaluation/test_diffusers_folders.py::test_a_folder_written_by_diffusers_is_restored"
NETWORKS = f"{FOLDERS}::test_diffusers_reproduces_samples_of_our_networks"
OTHERS = f"{FOLDERS}::test_a_folder_without_our_metadata_can_be_restored"
KEPT = f"{FOLDERS}::test_export_to_a_non_empty_folder_is_refused"
METADATA = f"{FOLDERS}::test_our_metadata_is_ignored_if_another_file_has_changed"
OLD = f"{FOLDERS}::test_old_attention_parameter_names_are_supported"
INIT = "training/test_init.py"
FITTING = f"{INIT}::test_mismatched_weights_are_reported_and_newly_initialized"
NOTHING = f"{INIT}::test_a_model_without_any_matching_matrix_is_refused"
ONCE = f"{INIT}::test_the_initial_model_is_read_only_at_the_start_of_the_run"
LAST = f"{INIT}::test_init_last_is_resolved_to_a_file_in_the_configuration"

FAULTS = [
    Fault("any number of schedule steps T is exported", "if table.steps != STEPS:", "if False:", f"{REFUSED}[steps]"),
    Fault("models with patches are exported", 'if chosen["patch"] != 1:', "if False:", f"{REFUSED}[patch]"),
    Fault(
        "numbers of steps that do not divide T are exported",
        'if spacing == "trailing" and STEPS % sampler.steps:',
        "if False:",
        f"{REFUSED}[seven steps]",
    ),
    Fault(
        "a sampler with noise in diffusers' last step is exported",
        'if spacing == "trailing" and sampler.steps < STEPS and kind != "fixed_small":',
        "if False:",
        f"{REFUSED}[large]",
    ),
    Fault(
        "every schedule is exported as linear",
        "if first < last < 1 and torch.allclose(",
        "if True or torch.allclose(",
        f"{SAMPLERS}[zero_snr]",
    ),
    Fault("the threshold is not exported", "**_threshold(sampler)}", "}", f"{SAMPLERS}[ddim_dynamic]"),
    Fault(
        "the maximum of the dynamic threshold is exported as 1",
        "UNLIMITED = 1e6",
        "UNLIMITED = 1.0",
        f"{SAMPLERS}[ddim_dynamic]",
    ),
    Fault(
        "the network's frequency shift is exported as 0",
        '"freq_shift": network.frequency_shift',
        '"freq_shift": 0',
        f"{NETWORKS}[unet]",
    ),
    Fault(
        "the network's eps is not exported",
        '"norm_eps": network.norm_eps',
        '"norm_eps": 1e-6',
        f"{NETWORKS}[unet_settings]",
    ),
    Fault("norm_eps is not read", 'theirs.number("norm_eps", 1e-12, 1)', "None", f"{READ}[with a large eps]"),
    Fault("downsample_padding is not read", 'theirs.one_of("downsample_padding", [0, 1])', "0", f"{READ}[by default]"),
    Fault("flip_sin_to_cos is not read", 'theirs.flag("flip_sin_to_cos")', "None", f"{READ}[by default]"),
    Fault(
        "differing settings that have no weights are not reported",
        "if shown := [",
        "if shown := [] and [",
        "training/test_init.py::test_settings_not_visible_in_the_weights_are_reported",
    ),
    Fault(
        "a non-empty folder is written to",
        "if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):",
        "if False:",
        KEPT,
    ),
    Fault(
        "metadata written for other files are used",
        "if metadata.get(OF) == _hash(",
        "if metadata.get(OF) or (",
        METADATA,
    ),
    Fault(
        "old weight names are not recognised", "from_diffusers({_modern(key): value", "from_diffusers({key: value", OLD
    ),
    Fault(
        "a foreign U-Net's last class counts as the row for no class",
        "weights[CLASSES] = torch.cat([table, table.new_zeros(1, table.shape[1])])",
        'model["classes"] -= 1',
        f"{OTHERS}[unet_classes]",
    ),
    Fault(
        "a pipeline with custom code is accepted",
        "(key != found or value != known[key])",
        "key != found",
        f"{HOSTILE}[own code]",
    ),
    Fault(
        "the size of a configuration file is not limited",
        "if len(content) <= MOST_BYTES else None",
        "",
        f"{HOSTILE}[long]",
    ),
    Fault("a boolean counts as an integer", "type(value) is int and low", "low", f"{HOSTILE}[truth]"),
    Fault("infinite numbers are accepted", " or not abs(value) <= sys.float_info.max", "", f"{HOSTILE}[endless]"),
    Fault(
        "the number of blocks is not limited",
        "if blocks * len(channels) > layers:",
        "if False:",
        f"{HOSTILE}[huge blocks]",
    ),
    Fault(
        "weight shapes are not compared before a network is built",
        "    _check_shapes(weights, model, net)\n",
        "",
        f"{HOSTILE}[another shape]",
    ),
    Fault(
        "the image size of a file is not limited",
        '.whole("sample_size", high=LARGEST_SIDE)',
        '.values["sample_size"]',
        f"{HOSTILE}[huge images]",
    ),
    Fault(
        "num_train_timesteps is not checked", '    theirs.one_of("num_train_timesteps", [STEPS])\n', "", f"{HOSTILE}[T]"
    ),
    Fault(
        "weights that are not floating-point are accepted",
        "if not value.is_floating_point()]",
        "if False]",
        f"{HOSTILE}[whole numbers]",
    ),
    Fault(
        "weights of other shapes are copied",
        "if name in found and found[name].shape == own[name].shape]",
        "if name in found]",
        FITTING,
    ),
    Fault(
        "a model of which only biases match is accepted",
        "if not any(own[name].ndim > 1 for name in fitting):",
        "if not fitting:",
        NOTHING,
    ),
    Fault(
        "a different prediction is not reported",
        'for part in ("schedule", "prediction") if',
        'for part in ("schedule",) if',
        FITTING,
    ),
    Fault(
        "init is applied again on resume",
        "    elif settings.init is not None:",
        "    if settings.init is not None:",
        ONCE,
    ),
    Fault(
        "init=last is not resolved in the saved configuration",
        "settings = settings if resumed else with_initial(settings)",
        "pass",
        LAST,
    ),
    Fault(
        "init: held-out images that were training images are not reported",
        "if other is not None and (not other or",
        "if False and (not other or",
        f"{INIT}::test_held_out_images_that_the_model_was_trained_on_are_reported",
    ),
    Fault(
        "init: another resolution counts as another division",
        "(not other or not SAME_DIVISION.issuperset(other)):",
        "True:",
        f"{INIT}::test_held_out_images_that_the_model_was_trained_on_are_reported",
    ),
    Fault(
        "init: classes with other names are not reported",
        "if len(theirs) == len(own) and (i :=",
        "if False and (i :=",
        f"{INIT}::test_classes_with_other_names_than_those_of_the_model_are_reported",
    ),
    Fault(
        "a folder without sub-folders is not read",
        "return folder / name if (folder / name).is_dir() else folder",
        "return folder / name",
        f"{FOLDERS}::test_a_folder_with_its_parts_beside_the_index_is_read",
    ),
    Fault(
        "the index may name another scheduler",
        "isinstance(listed, list) and listed[-1:] != [kind]",
        "False",
        f"{FOLDERS}::test_an_invalid_folder_gives_a_one_line_error[another scheduler]",
    ),
    Fault(
        "settings that weights do not show are not reported",
        "other += [key for key in CONFIGURED if",
        "other += [key for key in () if",
        "training/test_init.py::test_settings_not_visible_in_the_weights_are_reported",
    ),
]
