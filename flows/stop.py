"""Ending a run in an orderly way: what was begun is left as if it had not been, what is committed stays."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from tasks.chunk import Progress
from tasks.rows import ResultRow

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class RunStoppedError(Exception):
    """The run was cancelled; the next one goes on after what is committed."""


class StopSignal:
    """Tells the threads of a run that nobody wants it any more."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask for the end."""
        self._event.set()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            RunStoppedError: the end was asked for.
        """
        if self._event.is_set():
            raise RunStoppedError("the run was cancelled")


@dataclass(frozen=True)
class CheckedProgress:
    """Progress that looks after every batch whether the run may go on.

    Attributes:
        progress: who is told.
        check: raises when the run may not go on.
    """

    progress: Progress
    check: Callable[[], None]

    def fused(self, pairs: float) -> None:
        """Pass on, then check."""
        self.progress.fused(pairs)
        self.check()

    def committed(self, rows: Sequence[ResultRow]) -> None:
        """Pass on."""
        self.progress.committed(rows)

    def waiting(self, read: int, publish: int) -> None:
        """Pass on."""
        self.progress.waiting(read, publish)


async def in_thread(
    stop: StopSignal, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Call ``function`` in a thread; when this coroutine is cancelled, set ``stop`` and see the thread to its end.

    A thread cannot be killed, and one that goes on after its flow has ended would write beside the next run.
    """
    working = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([working])
        # What the thread says of its end is not news, and must not be reported as overlooked.
        working.exception()
        raise
