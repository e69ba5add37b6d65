"""Three stages over a list of chunks, with the outer two running beside the middle one."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Worked = TypeVar("Worked")


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Worked],
    write: Callable[[Item, Worked], None],
    depth: int = 2,
    waiting: Callable[[int, int], None] = lambda _read, _written: None,
) -> None:
    """Run ``write(item, work(item, read(item)))`` for each item, in order.

    ``work`` runs in the caller's thread; ``read`` runs ahead of it and ``write`` behind it, each in one thread of
    its own and by at most ``depth`` items, which bounds what waits in memory. The caller's context variables are
    there in both threads. ``waiting`` is told before each ``work`` how many items were read ahead and how many are
    still to be written. The first exception of any stage ends the loop and is raised; writes that were handed
    over before it are finished first, so that what is done stays done.
    """
    upcoming = iter(items)
    reading: deque[tuple[Item, Future[Read]]] = deque()
    writing: deque[Future[None]] = deque()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="read") as reader,
        ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
    ):

        def read_ahead() -> None:
            for item in upcoming:
                reading.append((item, reader.submit(contextvars.copy_context().run, read, item)))
                if len(reading) >= depth:
                    return

        try:
            read_ahead()
            while reading:
                item, future = reading.popleft()
                content = future.result()
                read_ahead()
                waiting(sum(ahead.done() for _, ahead in reading), sum(not behind.done() for behind in writing))
                worked = work(item, content)
                del content
                writing.append(writer.submit(contextvars.copy_context().run, write, item, worked))
                del worked
                while len(writing) > depth or (writing and writing[0].done()):
                    writing.popleft().result()
            for pending in writing:
                pending.result()
        finally:
            for _, ahead in reading:
                ahead.cancel()
