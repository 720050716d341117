"""Faults in models to and from diffusers, and in runs that start from a model: each removes one safeguard."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import diffusers  # noqa: F401
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

FOLDERS = "evaluation/test_diffusers_folders.py"
HOSTILE = f"{FOLDERS}::test_a_folder_that_is_not_sound_is_refused_in_one_line"
REFUSED = f"{FOLDERS}::test_what_diffusers_does_not_have_is_refused_before_anything_is_written"
SAMPLERS = f"{FOLDERS}::test_diffusers_draws_our_images_with_our_samplers"
READ = "evaluation/test_diffusers_folders.py::test_a_folder_that_diffusers_wrote_is_read"
NETWORKS = f"{FOLDERS}::test_diffusers_draws_our_images_with_our_networks"
OTHERS = f"{FOLDERS}::test_a_folder_of_others_is_read_without_what_only_we_write"
KEPT = f"{FOLDERS}::test_a_folder_that_is_not_empty_is_left_as_it_is"
METADATA = f"{FOLDERS}::test_the_metadata_count_only_with_the_files_that_they_were_written_with"
OLD = f"{FOLDERS}::test_old_names_of_an_attention_are_known"
INIT = "training/test_init.py"
FITTING = f"{INIT}::test_what_does_not_fit_is_said_and_left_fresh"
NOTHING = f"{INIT}::test_a_model_of_which_no_matrix_fits_is_refused"
ONCE = f"{INIT}::test_a_run_reads_it_at_its_start_and_never_again"
LAST = f"{INIT}::test_the_configuration_says_which_file_last_was"

FAULTS = [
    Fault("T of any length is exported", "if table.steps != STEPS:", "if False:", f"{REFUSED}[steps]"),
    Fault("patches are exported", 'if chosen["patch"] != 1:', "if False:", f"{REFUSED}[patch]"),
    Fault(
        "steps that do not divide T are exported",
        'if spacing == "trailing" and STEPS % sampler.steps:',
        "if False:",
        f"{REFUSED}[seven steps]",
    ),
    Fault(
        "noise in the last step is exported",
        'if spacing == "trailing" and sampler.steps < STEPS and kind != "fixed_small":',
        "if False:",
        f"{REFUSED}[large]",
    ),
    Fault(
        "every table is linear",
        "if first < last < 1 and torch.allclose(",
        "if True or torch.allclose(",
        f"{SAMPLERS}[zero_snr]",
    ),
    Fault("a threshold is lost", "**_threshold(sampler)}", "}", f"{SAMPLERS}[ddim_dynamic]"),
    Fault("a threshold is limited", "UNLIMITED = 1e6", "UNLIMITED = 1.0", f"{SAMPLERS}[ddim_dynamic]"),
    Fault(
        "a network's frequencies are another's",
        '"freq_shift": network.frequency_shift',
        '"freq_shift": 0',
        f"{NETWORKS}[unet]",
    ),
    Fault("a network's eps is lost", '"norm_eps": network.norm_eps', '"norm_eps": 1e-6', f"{NETWORKS}[unet_settings]"),
    Fault("an eps is not read", 'theirs.number("norm_eps", 1e-12, 1)', "None", f"{READ}[with a large eps]"),
    Fault("a padding is not read", 'theirs.one_of("downsample_padding", [0, 1])', "0", f"{READ}[by default]"),
    Fault("cosines are not read", 'theirs.flag("flip_sin_to_cos")', "None", f"{READ}[by default]"),
    Fault(
        "what no weight shows is not said",
        "if shown := [",
        "if shown := [] and [",
        "training/test_init.py::test_settings_that_no_weight_shows_are_said",
    ),
    Fault(
        "a full folder is written to",
        "if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):",
        "if False:",
        KEPT,
    ),
    Fault("metadata of other files count", "if metadata.get(OF) == _hash(", "if metadata.get(OF) or (", METADATA),
    Fault("old names are unknown", "from_diffusers({_modern(key): value", "from_diffusers({key: value", OLD),
    Fault(
        "the last class of others is no class",
        "weights[CLASSES] = torch.cat([table, table.new_zeros(1, table.shape[1])])",
        'model["classes"] -= 1',
        f"{OTHERS}[unet_classes]",
    ),
    Fault("own code is no matter", "(key != found or value != known[key])", "key != found", f"{HOSTILE}[own code]"),
    Fault("a file of any size is read", "if len(content) <= MOST_BYTES else None", "", f"{HOSTILE}[long]"),
    Fault("a truth value is a number", "type(value) is int and low", "low", f"{HOSTILE}[truth]"),
    Fault("infinite numbers are numbers", " or not abs(value) < math.inf", "", f"{HOSTILE}[endless]"),
    Fault(
        "layers without end are built",
        "if blocks * len(channels) > layers:",
        "if False:",
        f"{HOSTILE}[huge blocks]",
    ),
    Fault(
        "weights are not compared before a network is built",
        "    _check_shapes(weights, model, net)\n",
        "",
        f"{HOSTILE}[another shape]",
    ),
    Fault(
        "images of any size",
        '.whole("sample_size", high=LARGEST_SIDE)',
        '.values["sample_size"]',
        f"{HOSTILE}[huge images]",
    ),
    Fault("T of others is ours", '    theirs.one_of("num_train_timesteps", [STEPS])\n', "", f"{HOSTILE}[T]"),
    Fault("weights of any type", "if not value.is_floating_point()]", "if False]", f"{HOSTILE}[whole numbers]"),
    Fault(
        "other shapes are copied",
        "if name in found and found[name].shape == own[name].shape]",
        "if name in found]",
        FITTING,
    ),
    Fault("a bias is enough", "if not any(own[name].ndim > 1 for name in fitting):", "if not fitting:", NOTHING),
    Fault(
        "another task is not said",
        'for part in ("schedule", "prediction") if',
        'for part in ("schedule",) if',
        FITTING,
    ),
    Fault(
        "a resumed run starts anew",
        "    elif settings.init is not None:",
        "    if settings.init is not None:",
        ONCE,
    ),
    Fault("last is looked for again", "settings = settings if resumed else with_initial(settings)", "pass", LAST),
]
