"""How many bytes may be in flight at the same time, over all threads that read."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class ReadBudget:
    """Bounds the bytes that threads hold at the same time.

    Threads are served in the order in which they came, so that a large file is not passed over for ever. One that is
    larger than the whole budget is let through alone.

    Args:
        max_bytes: the budget, at least 1.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self.max_bytes = max_bytes
        self._in_flight = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._own = threading.local()

    @property
    def in_flight(self) -> int:
        """Bytes reserved at present."""
        return self._in_flight

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Wait until ``size`` bytes fit, and hold them while inside.

        A thread reserves once for all that it reads together: two threads that each hold a part and wait for more
        would wait for ever.

        Raises:
            ValueError: the size is negative.
            RuntimeError: this thread holds a reservation already.
        """
        if size < 0:
            raise ValueError(f"size must not be negative, got {size}")
        if getattr(self._own, "holds", False):
            raise RuntimeError("this thread holds a reservation already; reserve the sum of both sizes at once")
        self._take(size)
        self._own.holds = True
        try:
            yield
        finally:
            self._own.holds = False
            with self._changed:
                self._in_flight -= size
                self._changed.notify_all()

    def _take(self, size: int) -> None:
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is turn and self._fits(size))
                self._in_flight += size
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self._in_flight == 0 or self._in_flight + size <= self.max_bytes
