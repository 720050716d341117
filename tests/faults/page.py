"""Faults in the pages and their server: each removes one safeguard."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

PAGE = "report/test_page.py"
MARKUP = f"{PAGE}::test_text_in_the_data_never_becomes_markup"
POLICY = f"{PAGE}::test_the_security_policy_allows_only_the_pages_scripts_and_no_requests"
CURVES = f"{PAGE}::test_long_curves_are_subsampled_and_keep_both_ends"
FILM = f"{PAGE}::test_the_film_shows_x_t_and_the_estimates"
STUDY = f"{PAGE}::test_a_studys_page_groups_scores_by_setting_and_includes_pictures"
LEFT = f"{PAGE}::test_a_part_of_the_page_that_fails_is_omitted_with_the_reason"
PARTS = f"{PAGE}::test_the_networks_parts_sum_to_its_totals"
WATCH = "report/test_watch.py"
OUTSIDE = f"{WATCH}::test_paths_outside_the_folder_are_not_served"
NAME = f"{WATCH}::test_a_request_with_a_foreign_host_header_is_refused"
TOKEN = f"{WATCH}::test_requests_need_the_token_if_one_is_set"
AGAIN = f"{WATCH}::test_a_page_is_sent_again_only_when_its_files_change"
DIED = f"{WATCH}::test_a_run_whose_process_was_killed_is_shown_as_died"
LIVES = f"{WATCH}::test_a_page_that_fails_gives_a_one_line_error_and_the_server_continues"
SHEET = f"{PAGE}::test_a_contact_sheet_is_limited_in_size_and_states_the_number_of_images"
BYTES = "training/test_spent.py::test_recorded_bytes_of_each_part_equal_those_of_its_tensors"
GPU = "training/test_spent.py::test_images_in_host_memory_are_not_part_of_the_gpu_peak"
TABLE = "evaluation/test_web.py::test_the_exported_coefficients_reproduce_ddim"

FAULTS = [
    Fault("data can close their script element", 'text.replace("<", "\\\\u003c")', "text", MARKUP),
    Fault("the title is not escaped", 'title=html.escape(str(data["title"])),', 'title=str(data["title"]),', MARKUP),
    Fault("inline scripts are allowed", "script-src {hashes};", "script-src 'unsafe-inline';", POLICY),
    Fault("a page opened from disk may send requests", "if live else \"'none'\"", "if True else \"'none'\"", POLICY),
    Fault("a thinned curve loses its end", "np.linspace(0, n - 1, min(", "np.linspace(0, n - 2, min(", CURVES),
    Fault(
        "the film's times are off by one", "json.dumps([self.times[k] for", "json.dumps([self.times[k - 1] for", FILM
    ),
    Fault("the film is overwritten by later batches", "if first == 0 and k in self.kept:", "if k in self.kept:", FILM),
    Fault(
        "study settings with different samplers share a picture",
        'json.dumps([source.get("sampler"),',
        "json.dumps([",
        STUDY,
    ),
    Fault(
        "an error in one part of the page ends the run",
        "make()\n    except Exception",
        "make()\n    except KeyError",
        LEFT,
    ),
    Fault(
        "modules in lists are not listed separately",
        "isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential)",
        "False",
        PARTS,
    ),
    Fault(
        "folders outside the watched one have pages", "if address and folder not in self.known():", "if False:", OUTSIDE
    ),
    Fault("requests for another host name are answered", "if not self.addressed_here():", "if False:", NAME),
    Fault("the token is not required", "elif not self.allowed():", "elif False:", TOKEN),
    Fault("a page is never rebuilt", "if before is None or before[0] != version:", "if before is None:", AGAIN),
    Fault("a changed run state does not update the page", ", RunRecord(folder).state)", ")", DIED),
    Fault(
        "an unexpected error breaks the request",
        "except Exception as error:  # files",
        "except KeyError as error:  #",
        LIVES,
    ),
    Fault(
        "the size of a contact sheet is not limited", '["src"]) > most and n > 1', '["src"]) > most and False', SHEET
    ),
    Fault("images outside the measured peak count towards it", "if part != ELSEWHERE)", "if part)", GPU),
    Fault("the buffers of the average are not counted", "*_tensors(self.average), *", "*self.averages, *", BYTES),
    Fault("the page's sampler ignores the time label", "label.expand(steps), p.", "0 * label.expand(steps), p.", TABLE),
    Fault(
        "the page's sampler starts at the wrong scale", "math.hypot(times[0].alpha, times[0].sigma)]]", "2.0]]", TABLE
    ),
    Fault(
        "the page of a study mixes earlier ones",
        "if _study(s) == _study(settings[-1]) and s.",
        "if s.",
        "report/test_page.py::test_a_studys_page_shows_only_the_latest_study_in_its_folder",
    ),
]
