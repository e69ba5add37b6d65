"""Start marks, by which pairs that kill their process are found.

A process that begins to work on pairs leaves a mark below ``<run>/attempts/`` and takes it away when it is done with
them, also after an error or a cancelled run. A mark that stays tells that a process died: by a fault in a native
library, for want of memory, or with its machine. One death of a whole chunk makes its pairs suspects, which are
then worked on with marks of their own; a pair that was alone in a death, and in :data:`DEADLY` deaths in all, is
given up for this run.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from tasks.run_folder import RunFolder
from tasks.storage import join, list_names, read_needed, remove, write_atomic

DEADLY: Final = 2
"""Deaths of a process after which a pair is given up."""


@dataclass(frozen=True)
class Deaths:
    """Processes that died while they worked on the pairs of a chunk.

    Attributes:
        by_position: deaths in which a pair had part, by its position in the chunk.
        alone: positions of pairs that were the only one in a death.
    """

    by_position: Counter[int] = field(default_factory=Counter)
    alone: frozenset[int] = frozenset()

    @property
    def most(self) -> int:
        """Deaths of the pair that was in most of them."""
        return max(self.by_position.values(), default=0)

    def is_suspect(self, position: int, attempt: int) -> bool:
        """Whether a pair may not share a batch any more; ``attempt`` is that of its row."""
        return self.by_position[position] + attempt - 1 >= DEADLY

    def is_poison(self, position: int, attempt: int) -> bool:
        """Whether a pair is to be given up. An earlier attempt that failed counts as a death."""
        return position in self.alone and self.is_suspect(position, attempt)


class Marks:
    """The marks that this process has set in a run. Thread-safe.

    Args:
        run: the run that is worked on.
    """

    def __init__(self, run: RunFolder) -> None:
        self._folder = run.attempts_uri
        self._set: dict[str, str] = {}
        self._kept: set[str] = set()
        self._lock = threading.Lock()

    def set(self, shard_id: str, chunk_id: str, positions: Sequence[int]) -> str:
        """Say that work on these pairs of a chunk begins; returns what :meth:`clear` wants.

        Raises:
            StorageError: the mark cannot be written.
        """
        mark = uuid.uuid4().hex
        uri = join(self._folder, f"{shard_id}-{chunk_id}-{mark}.json")
        write_atomic(uri, _content(positions))
        with self._lock:
            self._set[mark] = uri
        return mark

    def keep(self, mark: str) -> None:
        """Say that pictures are about to be written: :meth:`clear_all` leaves the mark, only :meth:`clear` takes it.

        What ends between the pictures and their rows leaves pictures that rows of an earlier run may name.
        """
        with self._lock:
            self._kept.add(mark)

    def absolve(self, mark: str) -> None:
        """Say of a mark that is kept that no pair is to blame for it: this process ends in an orderly way.

        Raises:
            StorageError: the mark cannot be written.
        """
        with self._lock:
            uri = self._set[mark]
        write_atomic(uri, _content([]))

    def clear(self, mark: str) -> None:
        """Say that this work is over, well or not.

        Raises:
            StorageError: the mark cannot be removed.
        """
        with self._lock:
            uri = self._set.pop(mark, None)
        if uri is not None:
            remove(uri)

    def clear_all(self) -> None:
        """Take away every mark that is left and not kept, before this process ends in an orderly way.

        Raises:
            StorageError: a mark cannot be removed.
        """
        with self._lock:
            marks = [mark for mark in self._set if mark not in self._kept]
        for mark in marks:
            self.clear(mark)

    @contextmanager
    def around(self, shard_id: str, chunk_id: str, positions: Sequence[int]) -> Iterator[None]:
        """A mark for the time of the block."""
        mark = self.set(shard_id, chunk_id, positions)
        try:
            yield
        finally:
            self.clear(mark)


def marked_chunks(run: RunFolder) -> set[tuple[str, str]]:
    """(shard_id, chunk_id) of the chunks with a mark, whatever became of them.

    Raises:
        StorageError: the marks cannot be listed.
    """
    return {(shard_id, chunk_id) for shard_id, chunk_id, _ in _marks(run)}


def clear_marks(run: RunFolder) -> None:
    """Take away the marks of a run that is finished.

    Raises:
        StorageError: a mark cannot be removed.
    """
    for _, _, uri in _marks(run):
        remove(uri)


def read_deaths(run: RunFolder, shard_id: str) -> dict[str, Deaths]:
    """The deaths in a shard by chunk id, for chunks with a mark; no other process may be at work on the shard.

    Raises:
        StorageError: a mark cannot be read.
    """
    counts: dict[str, Counter[int]] = {}
    alone: dict[str, set[int]] = {}
    for shard, chunk_id, uri in _marks(run):
        if shard != shard_id:
            continue
        positions = json.loads(read_needed(uri))["positions"]
        counts.setdefault(chunk_id, Counter()).update(positions)
        if len(positions) == 1:
            alone.setdefault(chunk_id, set()).update(positions)
    return {chunk_id: Deaths(count, frozenset(alone.get(chunk_id, ()))) for chunk_id, count in counts.items()}


def _content(positions: Sequence[int]) -> bytes:
    # Not keys: these may have to stay secret.
    return json.dumps({"positions": list(positions)}).encode()


def _marks(run: RunFolder) -> Iterator[tuple[str, str, str]]:
    """(shard_id, chunk_id, URI) of each mark of a run."""
    for name in list_names(run.attempts_uri):
        shard_id, _, rest = name.partition("-")
        yield shard_id, rest.partition("-")[0], join(run.attempts_uri, name)
