"""Reading and publishing beside the fusion."""

import threading
import time
from contextvars import ContextVar

import pytest

from tasks.overlap import overlapped

SECONDS = 0.05


def test_slow_reader_and_writer_cost_little_beside_the_work():
    chunks = range(20)

    def timed(share):
        return lambda *_: time.sleep(share * SECONDS)

    def seconds(call):
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    alone = seconds(lambda: [timed(1.0)() for _ in chunks])
    # A machine that has other work may hold one of them up, but not all three.
    assert 1.2 * alone >= min(
        seconds(lambda: overlapped(chunks, read=timed(0.8), work=timed(1.0), write=timed(0.8))) for _ in range(3)
    )


def test_order_and_values():
    written = []
    overlapped(
        range(7), lambda n: n * 10, lambda n, content: (n, content + 1), lambda n, pair: written.append((n, pair))
    )
    assert written == [(n, (n, 10 * n + 1)) for n in range(7)]


def test_what_waits_in_memory_is_bounded():
    lock, counts = threading.Lock(), {"read": 0, "worked": 0, "written": 0}
    ahead, behind = [], []

    def count(name, gaps, other):
        with lock:
            counts[name] += 1
            gaps.append(counts[name] - counts[other])

    overlapped(
        range(30),
        read=lambda _: count("read", ahead, "worked"),
        work=lambda *_: (time.sleep(0.002), count("worked", behind, "written")),
        write=lambda *_: (time.sleep(0.005), count("written", [], "worked")),
        depth=2,
    )
    assert max(ahead) <= 3
    assert max(behind) <= 4


@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_an_error_of_any_stage_ends_the_loop_after_the_writes_before_it(stage):
    written = []

    def failing(name):
        def call(item, *_):
            if name == stage and item == 5:
                raise OSError(f"{name} {item}")
            if name == "write":
                written.append(item)

        return call

    with pytest.raises(OSError, match=f"{stage} 5"):
        overlapped(range(100), failing("read"), failing("work"), failing("write"))
    assert written[:5] == [0, 1, 2, 3, 4]
    assert len(written) < 12


def test_context_variables_reach_both_threads():
    variable = ContextVar("variable", default="unset")
    variable.set("here")
    seen = []
    overlapped([1], lambda _: seen.append(variable.get()), lambda *_: None, lambda *_: seen.append(variable.get()))
    assert seen == ["here", "here"]
