"""T1–T3: checkpoint files survive kill −9, damage, and disk errors."""

import contextlib
import errno
import hashlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from composing import train
from forked import FORK

from diffusion import files
from diffusion.checkpoint import storage
from diffusion.checkpoint.find import find
from diffusion.checkpoint.restore import read
from diffusion.config import schema
from diffusion.errors import UserError
from diffusion.training import run as run_of
from diffusion.training import saving
from diffusion.training.clock import Clock
from diffusion.training.saving import COPIES, Checkpoints

pytestmark = pytest.mark.reliability


def contents(step: int) -> dict:
    """A checkpoint with its step throughout its content; writing it takes several calls."""
    weights = {f"w{i}": torch.full((20_000,), float(step)) for i in range(4)}
    return {"config": "name: test", "state_dict": weights, "global_step": step, "epoch": 0}


def save(folder: Path, step: int) -> None:
    """Save as saving.Checkpoints does on rank 0."""
    storage.save(contents(step), path := storage.numbered(folder, step))
    files.link(path, folder / "last.ckpt")
    for old in storage.numbered_files(folder)[2:]:
        old.unlink()


def found(run: Path) -> Path:
    """The checkpoint that `ckpt=auto` resumes from in a run's folder."""
    checkpoint = find("auto", run, "run")
    assert checkpoint is not None
    return checkpoint.path


def whole(path: Path) -> int:
    """The step of a checkpoint, after a check that all of its content is from that step."""
    held = storage.load(path)
    step = held["global_step"]
    assert all(torch.equal(value, torch.full((20_000,), float(step))) for value in held["state_dict"].values())
    return step


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(function):
    """Die instead of calling the function."""
    return lambda *args: die()


def after(function):
    """Die after the function has returned."""

    def call(*args):
        function(*args)
        die()

    return call


def arm(point: str) -> None:
    """Die at this point of the next save."""
    if point == "mid-write":
        opened, left = Path.open, random.randrange(1, 12)

        def half(file, block):
            file.write(memoryview(block).cast("B")[: len(block) // 2])
            file.flush()
            die()

        Path.open = lambda self, mode="r", **how: (
            Failing(opened(self, mode, **how), half, left) if "x" in mode else opened(self, mode, **how)
        )
    else:
        when, name = point.split()
        setattr(os, name, {"before": before, "after": after}[when](getattr(os, name)))


POINTS = ["mid-write", "before fsync", "after fsync", "before replace", "after replace", "before link", "after link"]


def child(folder: Path, pipe: int, point: str | None, tmpdir: Path | None, first: int) -> None:
    """Save in a loop; report each saved step to the parent."""
    if tmpdir is not None:
        os.environ["TMPDIR"], tempfile.tempdir = str(tmpdir), None
    random.seed(os.getpid())
    for step in range(first, 10_000):
        if point is not None and step == first + 1:
            arm(point)
        save(folder, step)
        os.write(pipe, step.to_bytes(4, "little"))


@pytest.fixture
def other_disk(tmp_path):
    """A folder on a file system other than that of tmp_path; if there is none, on the same one (see the figure)."""
    candidates = [Path("/dev/shm"), Path("/run"), Path("/var/tmp")]
    found = next((c for c in candidates if c.is_dir() and os.access(c, os.W_OK)
                  and c.stat().st_dev != tmp_path.stat().st_dev), None)  # fmt: skip
    with tempfile.TemporaryDirectory(dir=found) as folder:
        yield Path(folder)


def test_t1_checkpoints_survive_kill_9_while_saving(tmp_path, other_disk, figure):
    """200 children are killed while saving; the newest checkpoint is the last acknowledged one, or newer."""
    random.seed(1)
    leftovers = unreadable = 0
    for k in range(200):
        run = tmp_path / f"run{k % 20}"  # some continue in the folder of a killed child
        folder = run / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        point = POINTS[(k // 2) % len(POINTS)] if k % 2 else None
        done = [int(f.stem.removeprefix("step-")) for f in storage.numbered_files(folder)]
        first = max(done, default=0) + 1
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                child(folder, write, point, other_disk if k % 4 < 2 else None, first)
            finally:
                os._exit(1)
        os.close(write)
        acknowledged = b""
        if point is None:
            acknowledged = os.read(read, 4)  # it has started to save
            time.sleep(random.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        while data := os.read(read, 4096):
            acknowledged += data
        os.close(read)
        last = int.from_bytes(acknowledged[-4:], "little")
        assert last >= first
        try:
            assert whole(found(run)) >= last
            assert whole(folder / "last.ckpt") >= last
        except (storage.Damaged, UserError):
            unreadable += 1
        leftovers += any(folder.glob(f".*{files.PART}"))
        save(folder, last + 2)
        names = {f.name for f in folder.iterdir()}
        assert not any(name.endswith(files.PART) for name in names)
        assert not list(other_disk.iterdir())
        assert len(names) <= 3
    assert leftovers > 20  # otherwise the kills did not fall within a save
    assert unreadable == 0
    other = other_disk.stat().st_dev != tmp_path.stat().st_dev
    where = "for half on another file system" if other else "on the same file system: THERE IS NO OTHER HERE"
    figure("kill −9 while saving", f"200 kills, {unreadable} unreadable checkpoints ($TMPDIR {where})")


def test_t1_a_file_is_synced_before_and_its_folder_after_the_rename(tmp_path, monkeypatch):
    """The file is synced to disk before it is renamed, and the folder after."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        calls.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def watched_replace(source, target):
        assert Path(source).parent == Path(target).parent
        calls.append(f"rename {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    storage.save(contents(1), tmp_path / "a.ckpt")
    file, rename, folder = calls
    assert file.startswith("fsync .a.ckpt")
    assert file.endswith(files.PART)
    assert (rename, folder) == ("rename a.ckpt", f"fsync {tmp_path.name}")


def damages(data: bytes):
    """Yield (description, damaged bytes; None for a folder in place of the file)."""
    size = len(data)
    for k in range(20):
        yield f"truncated {k}", data[: size * k // 20 + 1 if k < 15 else size - (20 - k) * 13]
    for k in range(20):
        place = size * k // 20
        yield f"flipped {k}", data[:place] + bytes([data[place] ^ (1 << k % 8)]) + data[place + 1 :]
    yield "empty", b""
    yield "folder", None


def put(path: Path, data: bytes | None) -> None:
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)


def test_t2_a_damaged_newest_checkpoint_is_skipped_and_reported(tmp_path, capfd, figure):
    """If the newest is damaged, the previous one is used and the reason printed; a named file has no fallback."""
    folder = tmp_path / "run" / "checkpoints"
    for step in (1, 2, 3):
        storage.save(contents(step), storage.numbered(folder, step))
        os.utime(storage.numbered(folder, step), (9 - step, 9 - step))  # as if the clock had been set back
    newest = storage.numbered(folder, 3)
    good = newest.read_bytes()
    detected = 0
    for what, data in damages(good):
        put(newest, data)
        before = sorted((p.name, p.stat().st_size) for p in folder.iterdir())
        capfd.readouterr()
        assert found(tmp_path / "run") == storage.numbered(folder, 2), what
        out = capfd.readouterr().out
        assert "skipped" in out
        assert newest.name in out
        assert sorted((p.name, p.stat().st_size) for p in folder.iterdir()) == before
        with pytest.raises(UserError, match=newest.name):
            read(newest)
        detected += 1
    put(newest, None)
    newest.rmdir()
    newest.symlink_to("nothing")
    capfd.readouterr()
    assert found(tmp_path / "run") == storage.numbered(folder, 2)
    assert (
        f"skipped {newest}: not a readable checkpoint: it cannot be read (No such file"
        in capfd.readouterr().out.replace("\n", "")
    )
    put(newest, good)
    files.link(newest, folder / "last.ckpt")
    put(folder / "last.ckpt", good[:-1])
    with pytest.raises(UserError, match=r"last\.ckpt"):
        find("last", tmp_path / "run", "run")
    for path in folder.iterdir():
        put(path, path.read_bytes()[:100])
    with pytest.raises(UserError, match="ckpt=null starts from scratch"):
        find("auto", tmp_path / "run", "run")
    figure("damaged checkpoints", f"{detected}, {detected} detected and named, the one before used")


def same(a, b) -> bool:
    """Whether two values of a checkpoint are equal."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_t2_a_flipped_bit_is_detected_or_changes_nothing(tmp_path, figure):
    """For each bit of the records at the end of a zip, and for a sample of the bits before them."""
    weights = {"a": torch.arange(16.0), "b": torch.arange(3).half()}  # of 64 bytes: one bit makes the size 0
    expected = {"config": "name: test", "state_dict": weights, "global_step": 1, "epoch": 0}
    storage.save(expected, path := tmp_path / "a.ckpt")
    good = path.read_bytes()
    records = 8 * good.index(b"PK\x01\x02")
    bits = [*random.Random(0).sample(range(records), 500), *range(records, 8 * len(good))]
    detected = 0
    with path.open("r+b", buffering=0) as file:
        for bit in bits:
            place = bit // 8
            file.seek(place)
            file.write(bytes([good[place] ^ (1 << bit % 8)]))
            try:
                assert same(expected, storage.load(path)), (place, bit % 8)
            except storage.Damaged:
                detected += 1
            file.seek(place)
            file.write(good[place : place + 1])
    assert detected > len(bits) / 2  # the others are padding, or parts of the zip that torch does not use
    figure("flipped bits in a checkpoint", f"{len(bits)}, {detected} detected, the others change nothing that is read")


def test_t2_a_file_written_by_torch_is_verified_too(tmp_path, capfd):
    folder = tmp_path / "checkpoints"
    storage.save(contents(1), storage.numbered(folder, 1))
    torch.save(contents(2), path := storage.numbered(folder, 2))
    assert found(tmp_path) == path
    good = path.read_bytes()
    put(path, good[:1000] + b"?" + good[1001:])
    assert found(tmp_path) == storage.numbered(folder, 1)
    put(path, good)
    torch.save(contents(2), path, _use_new_zipfile_serialization=False)  # torch's old format has no checksum
    assert found(tmp_path) == storage.numbered(folder, 1)
    assert "File is not a zip file" in capfd.readouterr().out.replace("\n", " ")


def test_t2_a_checkpoint_with_a_comment_is_read(tmp_path):
    """Earlier versions appended the SHA-256 of the file as the comment of its zip."""
    torch.save(contents(1), path := tmp_path / "a.ckpt")
    data = path.read_bytes()[:-2] + (71).to_bytes(2, "little")
    path.write_bytes(data + b"sha256:" + hashlib.sha256(data).hexdigest().encode())
    assert whole(path) == 1


def test_t2_damage_after_the_start_does_not_affect_a_resumed_run(command, tiny, tmp_path, monkeypatch):
    """The run continues with the checkpoint that it read at the start, which was complete."""
    assert command("train", [*tiny, "hydra.run.dir=run"])[0] == 0
    made = run_of.make_trainer

    def damaging(*arguments):
        last = tmp_path / "run/checkpoints/last.ckpt"
        put(last, last.read_bytes()[:-1])
        return made(*arguments)

    monkeypatch.setattr(run_of, "make_trainer", damaging)
    status, out, err = command("train", [*tiny, "hydra.run.dir=run", "ckpt=last", "trainer.max_epochs=3"])
    assert status == 0, out + err
    assert "resuming from" in out
    assert storage.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 18


def checkpoints_at(folder: Path, step: int, keep: int = 2) -> Checkpoints:
    """The callback of a run that has just saved at step `step`."""

    def write(path: Path) -> None:
        storage.save(contents(step), path)

    checkpoints = Checkpoints(folder, schema.Checkpoint(keep=keep), Clock(epoch=1, total=100))
    checkpoints.save(SimpleNamespace(global_step=step, is_global_zero=True, save_checkpoint=write))  # type: ignore[arg-type]
    return checkpoints


def steps(folder: Path) -> list[int]:
    return [storage.step_in_name(file) for file in storage.numbered_files(folder / "checkpoints")]


def test_t2_the_newest_checkpoint_is_chosen_by_steps_and_not_by_time(tmp_path, capfd):
    """The clock was set back, or the files were copied: new checkpoints look older than existing ones."""
    folder = tmp_path / "checkpoints"
    for step in (10, 20, 30, 40):
        checkpoints_at(tmp_path, step)
        assert found(tmp_path) == storage.numbered(folder, step)
        for file in folder.iterdir():
            os.utime(file, (2**32 - step,) * 2)
    assert steps(tmp_path) == [40, 30]
    shutil.copy(folder / "last.ckpt", tmp_path / "copy")
    os.replace(tmp_path / "copy", folder / "last.ckpt")
    storage.numbered(folder, 40).unlink()
    os.utime(folder / "last.ckpt", (1, 1))
    assert found(tmp_path) == folder / "last.ckpt"  # of step 40
    put(folder / "last.ckpt", b"damaged")
    assert found(tmp_path) == storage.numbered(folder, 30)
    capfd.readouterr()
    checkpoints_at(tmp_path, 25, keep=3)  # resumed from an older one by name
    assert steps(tmp_path) == [25]
    assert found(tmp_path) == storage.numbered(folder, 25)
    assert "removed step-00000030.ckpt" in capfd.readouterr().out


def test_t2_ckpt_choices_handle_missing_and_damaged_checkpoints(command, tiny, tmp_path):
    """auto resumes from an intact one and exits if all are damaged; it starts anew if there is none, or if asked."""
    run = [*tiny, "hydra.run.dir=run"]
    status, out, err = command("train", [*run, "ckpt=auto", "trainer.max_epochs=2"])
    assert status == 0, out + err
    assert "starting from scratch" in out
    newest = tmp_path / "run/checkpoints/step-00000012.ckpt"
    newest.write_bytes(newest.read_bytes()[:-5])  # and last.ckpt, a hard link to the same file
    status, out, err = command("train", [*run, "ckpt=auto", "trainer.max_epochs=3"])
    assert status == 0, out + err
    assert "skipped" in out
    assert "step-00000006.ckpt, step 6" in out.replace("\n", "")
    status, out, err = command("train", [*run, "ckpt=run/checkpoints/step-00000099.ckpt"])
    assert status == 2
    assert "no such file" in err
    for path in (tmp_path / "run/checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-5])
    status, out, err = command("train", [*run, "ckpt=auto"])
    assert status == 2
    assert "none of the checkpoints" in err
    status, out, err = command("train", [*run, "ckpt=last"])
    assert status == 2
    status, out, err = command("train", [*run, "ckpt=run/checkpoints/step-00000018.ckpt"])
    assert status == 2
    status, out, err = command("train", [*run, "ckpt=null", "trainer.max_epochs=1"])
    assert status == 0, out + err


def test_t2_a_forgotten_ckpt_setting_overwrites_nothing(command, tiny, tmp_path):
    run = [*tiny, "hydra.run.dir=run", "samples.n=0", "trainer.max_epochs=1"]
    assert command("train", run)[0] == 0

    def kept() -> dict[str, bytes]:
        files = [*(tmp_path / "run/checkpoints").iterdir(), tmp_path / "run/run.json"]
        return {file.name: file.read_bytes() for file in files}

    before = kept()
    status, out, err = command("train", [*run, "seed=1"])
    assert status == 2, out + err
    (line,) = err.splitlines()
    for word in ("run contains checkpoints", "ckpt=auto", "hydra.run.dir", "ckpt=null"):
        assert word in line
    assert kept() == before
    assert command("train", [*tiny, "hydra.run.dir=other", "samples.n=0", "trainer.max_epochs=1"])[0] == 0
    status, out, err = command("train", [*run, "ckpt=other/checkpoints/last.ckpt", "trainer.max_epochs=2"])
    assert status == 2, out + err
    (line,) = err.splitlines()
    for word in ("run contains checkpoints of another run", "other/checkpoints/last.ckpt", "ckpt=auto"):
        assert word in line
    assert kept() == before
    status, out, err = command("train", [*run, "ckpt=auto", "trainer.max_epochs=2"])
    assert status == 0, out + err


class Failing:
    """A file whose n-th write fails."""

    def __init__(self, file, fail, left):
        self.file, self.fail, self.left = file, fail, left

    def write(self, block):
        self.left -= 1
        return self.fail(self.file, block) if self.left == 0 else self.file.write(block)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


FAILURES = [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EXDEV]


@pytest.mark.parametrize("number", FAILURES)
@pytest.mark.parametrize("call", ["open", "write", "write late", "fsync", "replace"])
def test_t3_a_failed_save_raises_and_leaves_the_old_file(tmp_path, monkeypatch, number, call):
    path = tmp_path / "a.ckpt"
    storage.save(contents(1), path)
    old = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    opened = Path.open

    def failing(self, mode="r", **how):
        if "x" not in mode:
            return opened(self, mode, **how)
        return fail() if call == "open" else Failing(opened(self, mode, **how), fail, 9 if "late" in call else 2)

    if call == "open" or call.startswith("write"):
        monkeypatch.setattr(Path, "open", failing)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        storage.save(contents(2), path)
    assert caught.value.errno == number
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert whole(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def limited(path: Path) -> None:
    """Exit with the errno with which the operating system refuses to write a larger file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        storage.save(contents(2), path)
    except OSError as error:
        sys.exit(error.errno)


def test_t3_operating_system_errors_are_raised_unchanged(tmp_path):
    """This error is real, not injected: torch's C++ writer would turn it into a RuntimeError."""
    storage.save(contents(1), path := tmp_path / "a.ckpt")
    process = FORK.Process(target=limited, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == errno.EFBIG
    assert whole(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_t3_a_disk_full_while_copying_best_ckpt_gives_an_error(command, tiny, tmp_path, monkeypatch):
    """Without hard links, best.ckpt is a copy."""
    link = files.link

    def full(source, path):
        if path.name == "best.ckpt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        link(source, path)

    monkeypatch.setattr(saving, "link", full)
    status, out, err = command("train", [*tiny, "hydra.run.dir=run"])
    assert status == 2, out + err
    assert "No space left on device; earlier checkpoints are intact" in err.splitlines()[-1]
    assert storage.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 6


def test_t3_a_run_on_a_full_disk_ends_with_an_error(command, tiny, tmp_path, monkeypatch):
    """It reports the error, and the previous checkpoint is intact."""
    real, calls = storage.save, []

    def full_the_second_time(what, path):
        calls.append(path)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(what, path)

    monkeypatch.setattr(storage, "save", full_the_second_time)
    status, out, err = command("train", [*tiny, "hydra.run.dir=run"])
    assert status == 2, out + err
    assert "No space left on device" in err
    assert storage.load(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 6


def test_t3_files_that_will_be_replaced_count_as_free_space(tmp_path, monkeypatch):
    """Files that replace old ones need no extra room, but a new one is written before an old one is removed."""
    network = torch.nn.Linear(1000, 25)  # 100 kB; a checkpoint contains four of these
    one = COPIES * sum(4 * p.numel() for p in network.parameters())
    trainer = SimpleNamespace(is_global_zero=True, global_step=9)
    for step in (1, 2, 3):
        checkpoints = checkpoints_at(tmp_path, step, keep=3)
        for file in (tmp_path / "checkpoints").iterdir():
            os.truncate(file, one)
        for room in range(1, 6):
            monkeypatch.setattr(saving, "free_space", lambda folder, room=room: room * one)
            with pytest.raises(UserError, match="free some space") if room < 5 - step else contextlib.nullcontext():
                checkpoints.on_train_start(trainer, network)  # type: ignore[arg-type]
    put(tmp_path / "checkpoints/best.ckpt", bytes(9 * one))
    monkeypatch.setattr(saving, "free_space", lambda folder: one - 1)
    with pytest.raises(UserError, match="free some space"):
        checkpoints.on_train_start(trainer, network)  # type: ignore[arg-type]


def test_t3_a_full_disk_is_refused_before_the_first_batch(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "free_space", lambda folder: 1000)
    monkeypatch.setattr("diffusion.training.module.Diffusion.training_step", lambda *a: sys.exit("a batch was run"))
    with pytest.raises(UserError, match="free some space"):
        train(tiny, tmp_path / "run")
