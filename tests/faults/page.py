"""Faults in the pages and their server: each removes one safeguard."""

# Libraries are imported here once, not in each copy's process, for speed; the project itself is not.
import lightning.pytorch  # noqa: F401
from faults.fault import Fault

PAGE = "report/test_page.py"
MARKUP = f"{PAGE}::test_text_of_the_data_is_never_markup"
POLICY = f"{PAGE}::test_only_the_scripts_of_the_page_may_run_and_they_may_ask_for_nothing"
CURVES = f"{PAGE}::test_long_curves_keep_values_of_the_file_and_both_ends"
FILM = f"{PAGE}::test_the_film_has_x_and_the_estimates_of_each_step"
STUDY = f"{PAGE}::test_a_study_groups_its_settings_and_finds_their_pictures"
LEFT = f"{PAGE}::test_a_part_that_cannot_be_measured_is_left_out_with_the_reason"
PARTS = f"{PAGE}::test_the_networks_parts_add_up"
WATCH = "report/test_watch.py"
OUTSIDE = f"{WATCH}::test_nothing_outside_of_the_folder_is_shown"
NAME = f"{WATCH}::test_a_name_that_another_site_gave_the_loopback_address_is_refused"
TOKEN = f"{WATCH}::test_other_machines_need_the_token"
AGAIN = f"{WATCH}::test_a_page_is_sent_again_only_when_its_files_change"
DIED = f"{WATCH}::test_a_run_whose_process_is_gone_has_died_though_no_file_says_so"
LIVES = f"{WATCH}::test_a_page_that_cannot_be_made_is_one_line_and_the_server_lives_on"
SHEET = f"{PAGE}::test_a_sheet_of_many_images_is_bounded_and_says_what_it_leaves_out"
BYTES = "training/test_spent.py::test_the_bytes_of_each_part_are_those_of_its_tensors"
GPU = "training/test_spent.py::test_on_a_gpu_the_images_are_outside_of_its_peak"
TABLE = "evaluation/test_web.py::test_a_table_has_all_that_ddim_needs"

FAULTS = [
    Fault("data can end its script", 'text.replace("<", "\\\\u003c")', "text", MARKUP),
    Fault("a title is markup", "title=html.escape(str(data[\"title\"])),", "title=str(data[\"title\"]),", MARKUP),
    Fault("any script may run", "script-src {hashes};", "script-src 'unsafe-inline';", POLICY),
    Fault("a page from disk may ask", 'if live else "\'none\'"', 'if True else "\'none\'"', POLICY),
    Fault("a curve loses its end", "len(values) - 1, min(len(values)", "len(values) - 2, min(len(values)", CURVES),
    Fault("the film has the wrong times", "json.dumps([self.times[k] for", "json.dumps([self.times[k - 1] for", FILM),
    Fault("the film shows every batch", "if first == 0 and k in self.kept:", "if k in self.kept:", FILM),
    Fault("settings of a study share a picture", 'json.dumps([source.get("sampler"),', "json.dumps([", STUDY),
    Fault("a part that fails ends the run", "make()\n    except Exception", "make()\n    except KeyError", LEFT),
    Fault("parts of lists are one", "isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential)", "False", PARTS),
    Fault("any folder has a page", "if address and folder not in self.known():", "if False:", OUTSIDE),
    Fault("any name is the server's", "if not self.addressed_here():", "if False:", NAME),
    Fault("no token is needed", "elif not self.allowed():", "elif False:", TOKEN),
    Fault("a page is never made again", "if before is None or before[0] != version:", "if before is None:", AGAIN),
    Fault("the state is not watched", ", RunRecord(folder).state)", ")", DIED),
    Fault("an error ends the request", "except Exception as error:  # files", "except KeyError as error:  #", LIVES),
    Fault("a sheet has no bound", '["src"]) > most and n > 1', '["src"]) > most and False', SHEET),
    Fault("images outside of the peak are of it", "if part != ELSEWHERE)", "if part)", GPU),
    Fault("the averages have no buffers", "list(_tensors(self.average))", "self.averages", BYTES),
    Fault("the page's sampler forgets the label", "label.expand(steps), p.", "0 * label.expand(steps), p.", TABLE),
    Fault("the page's sampler begins at another scale", "math.hypot(times[0].alpha, times[0].sigma)]]", "2.0]]", TABLE),
]  # fmt: skip
