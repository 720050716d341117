"""A launch: one call of a command, with the words that were typed and the folder that it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diffusion.config.inherit import Change, changes_of
from diffusion.runs.record import CONFIG, RunRecord, held


@dataclass(frozen=True)
class Launch:
    """A call of a command."""

    folder: Path
    words: Sequence[str] = ()  # KEY=VALUE, as typed; of a job, as Hydra writes them
    command: str = "train"
    job: bool = False  # of a sweep

    @cached_property
    def changes(self) -> list[Change]:
        """The settings and choices that the words give."""
        return changes_of(self.words)

    def gives(self, *places: str) -> bool:
        """Whether the words give one of these settings or groups."""
        return any(change.place in places for change in self.changes)

    def claim(self) -> RunRecord:
        """Begin a run in the folder, holding its lock. Only one of two simultaneous claims succeeds.

        Raises UserError if a run is alive there: two would destroy each other's checkpoints.
        """
        lock, record = held(self.folder), RunRecord(self.folder)
        record.lock, files = lock, (record.path, self.folder / CONFIG)
        previous = {file: file.read_bytes() if file.is_file() else None for file in files}
        record.start([self.command, *self.words])
        record.previous = {} if self.job and previous[record.path] is None else previous
        return record
