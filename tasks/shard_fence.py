"""Which process works on a shard of a run: the one that was sent last, and no older one.

A parent that hears nothing of a flow run any more sends the shard again, and the old process may live all the same, on
a machine that the server could not reach for a while. The lock of the destination accepts both, since both work for its
holder. So each process writes into ``<run>/at-work/<shard>.json`` who it is before it reads or does anything, and one
that is not named there any more ends before its next commit.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from tasks.lock import LockLostError
from tasks.run_folder import RunFolder
from tasks.storage import StorageError, create_exclusive, join, list_names, read_versioned, remove, replace_if_unchanged


@dataclass(frozen=True, order=True)
class Sending:
    """When a flow run of a shard was sent, in comparison with the others of the same shard; the last one is greatest.

    Attributes:
        token: of the lock that its parent held. It comes first: a parent with another deployment counts from 1 again.
        number: counts the flow runs of the shard.
    """

    token: int
    number: int


class ShardFence:
    """The right of this process to work on a shard.

    Args:
        run: the run.
        shard_id: as in its manifest.
        sending: by which this process was sent.
    """

    def __init__(self, run: RunFolder, shard_id: str, sending: Sending) -> None:
        self._dest = run.dest
        self._shard_id = shard_id
        self._sending = sending
        # A flow run that was put off has the same number when it starts again, in a process of its own.
        self._process = uuid.uuid4().hex
        self._uri = _fence_uri(run, shard_id)

    def enter(self) -> None:
        """Say that this process works on the shard, before anything of the shard is read; older ones end.

        Raises:
            LockLostError: one that was sent later works on it.
            StorageError: the file cannot be read or written.
        """
        content = {"token": self._sending.token, "number": self._sending.number, "process": self._process}
        ours = (json.dumps(content) + "\n").encode()
        while True:
            found = read_versioned(self._uri)
            if found is None:
                if create_exclusive(self._uri, ours):
                    return
                continue
            if self._named(found[0])[0] > self._sending:
                raise self._superseded()
            if replace_if_unchanged(self._uri, ours, found[1]):
                return

    def check(self) -> None:
        """Call before each commit.

        Raises:
            LockLostError: another process works on the shard, or has completed it.
            StorageError: the file cannot be read.
        """
        if not self._is_ours():
            raise self._superseded()

    def leave(self) -> None:
        """Say that the shard is complete. Not to be called of one that is not: a flow run that is late would enter.

        Raises:
            StorageError: the file cannot be read or removed.
        """
        if self._is_ours():
            remove(self._uri)

    def _is_ours(self) -> bool:
        found = read_versioned(self._uri)
        return found is not None and self._named(found[0]) == (self._sending, self._process)

    def _named(self, content: bytes) -> tuple[Sending, str]:
        try:
            named = json.loads(content)
            return Sending(named["token"], named["number"]), named["process"]
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(
                self._uri, f"does not say who works on the shard ({error})", "remove it; the next run goes on"
            ) from error

    def _superseded(self) -> LockLostError:
        return LockLostError(
            self._dest,
            f"shard {self._shard_id} is no longer this flow run's (number {self._sending.number}): a later one took it",
            "let that one finish; what was committed stays",
        )


def clear_fences(run: RunFolder) -> None:
    """Take away what processes that did not complete their shard left, when the run is finished.

    Raises:
        StorageError: a file cannot be removed.
    """
    for name in list_names(run.at_work_uri):
        remove(join(run.at_work_uri, name))


def _fence_uri(run: RunFolder, shard_id: str) -> str:
    return join(run.at_work_uri, f"{shard_id}.json")
