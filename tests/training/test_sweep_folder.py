"""The jobs of a sweep share one folder, and each has its own in it."""

import contextlib
import threading

import pytest

from diffusion.runs import naming
from diffusion.runs.folder import is_sweep
from diffusion.runs.record import RunRecord

SHORT = ["trainer.max_steps=1", "samples.n=0"]


@pytest.mark.parametrize("swept", ["seed=0,1", "name=a,b"])
def test_a_sweep_without_a_name_has_one_folder_named_after_the_model(command, tiny, tmp_path, swept):
    status, out, err = command("train", ["-m", *tiny, *SHORT, swept])
    assert status == 0, out + err
    (sweep,) = (tmp_path / "outputs").glob("*/*")
    assert sweep.parent.name == "unet_tiny"
    assert sweep.name.startswith("sweep-")
    assert [RunRecord(sweep / job).state for job in ("0", "1")] == ["complete", "complete"]
    assert is_sweep(sweep)


def test_a_failed_trial_does_not_end_a_search(command, tiny, tmp_path):
    """A negative learning rate, which this seed draws first, is refused."""
    search = [
        "hydra/sweeper=optuna",
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.sampler.seed=0",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=1",
    ]
    _, out, err = command("train", ["-m", *tiny, *SHORT, *search, "optimizer.lr=choice(1e-3,-1.0)", "name=search"])
    (sweep,) = (tmp_path / "outputs/search").glob("sweep-*")
    assert [RunRecord(sweep / job).state for job in ("0", "1")] == ["failed", "complete"], out + err
    assert (sweep / "optimization_results.yaml").is_file()
    assert is_sweep(sweep)


def test_jobs_that_start_at_once_get_different_folders(tmp_path, monkeypatch):
    """Folder 0 belongs to an earlier job. Both look for one before either has written its overrides."""
    naming.job_folder(tmp_path, 0, ["a=0"])
    write, names = naming.replace, {}
    both = threading.Barrier(2)

    def slow(*words):
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)
        write(*words)

    monkeypatch.setattr(naming, "replace", slow)
    jobs = {name: [f"{name}=1"] for name in ("b", "c")}
    threads = [
        threading.Thread(target=lambda job=job: names.setdefault(job, naming.job_folder(tmp_path, 1, jobs[job])))
        for job in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names.values()) == ["1", "2"]
