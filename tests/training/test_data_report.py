"""The images that a run leaves out are listed in its folder with the reasons, even if they end the run."""

import json
import shutil

import pytest


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("data.strict=false", 0, ""),
        ("data.strict=true", 2, "set data.strict=false"),
        ("data.limit=100", 2, "lower data.limit"),
        ("data.resolution=32", 2, "none of"),
    ],
)
def test_the_data_report_lists_refused_images_even_on_failure(command, tiny, photos, tmp_path, override, code, words):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos/bad.png").write_text("no picture")
    overrides = [*tiny, "data.root=photos", override, "trainer.max_steps=1", "samples.n=0", "hydra.run.dir=run"]
    status, out, err = command("train", overrides)
    assert status == code, out + err
    assert words in err
    report = json.loads((tmp_path / "run/data_report.json").read_text())
    assert all(entry.keys() == {"path", "reason", "action"} for entry in report)
    (bad,) = [entry for entry in report if entry["path"] == "bad.png"]
    assert (bad["action"], "not an image" in bad["reason"]) == ("refused", True)
