"""How far a run is, in one line that a log can take every half minute."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from tasks.codes import Status
from tasks.rows import ResultRow

INTERVAL_S = 30.0


class DeviceWords(Protocol):
    """What is made of a device, such as :class:`flows.device_use.DeviceUse` tells."""

    def line(self) -> str:
        """Now."""

    def summary(self) -> str:
        """All the time."""


class Heartbeat:
    """Counts what :class:`tasks.chunk.Progress` tells; not thread-safe by itself.

    Args:
        pairs: to do in all.
        clock: seconds, such as ``time.monotonic``.
        device: says what is made of the device, where this process has one.
    """

    def __init__(
        self, pairs: int, clock: Callable[[], float] = time.monotonic, device: DeviceWords | None = None
    ) -> None:
        self.pairs = pairs
        self.device = device
        self.done = 0.0
        self.clock = clock
        self.problems: Counter[str] = Counter()
        self.queues: tuple[int, int] | None = None
        self._began = self._spoke = clock()

    def count(self, rows: Sequence[ResultRow]) -> None:
        """Count what was not fused."""
        self.problems.update(row.status for row in rows if row.status != Status.OK)

    def is_due(self) -> bool:
        """Whether the last line, or the beginning, lies :data:`INTERVAL_S` back; then that is now."""
        now = self.clock()
        if now - self._spoke < INTERVAL_S:
            return False
        self._spoke = now
        return True

    def line(self) -> str:
        """Pairs done, rate, time left, chunks that wait before and behind the network where told, device, problems."""
        seconds = self.clock() - self._began
        rate = self.done / seconds if seconds else 0.0
        left = duration((self.pairs - self.done) / rate) if rate else "unknown time"
        device = "" if self.device is None else f", {self.device.line()}"
        queues = "" if self.queues is None else ", chunks read ahead {}, to publish {}".format(*self.queues)
        return (
            f"{round(self.done, 1):g} of {self.pairs} pairs, {rate:.2f} pairs/s, {left} left"
            f"{queues}{device}{self.problem_note()}"
        )

    def summary(self) -> str:
        """Pairs done, seconds, rate, device, and problems; for the end."""
        seconds = self.clock() - self._began
        rate = self.done / seconds if seconds else 0.0
        device = "" if self.device is None else f", {self.device.summary()}"
        return f"{round(self.done, 1):g} pairs in {duration(seconds)}, {rate:.2f} pairs/s{device}{self.problem_note()}"

    def problem_note(self) -> str:
        """Counts of what was not fused, with a comma before each."""
        return "".join(f", {count} {status}" for status, count in sorted(self.problems.items()))


def duration(seconds: float) -> str:
    """A length of time as people say it: 40 s, 12 min, 3 h 05 min, 2 days 4 h."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"
