from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.storage import ReadBudget


def test_no_more_is_in_flight_than_the_budget() -> None:
    budget = ReadBudget(100)
    most: list[int] = []

    def read(size: int) -> None:
        for _ in range(20):
            with budget.reserve(size):
                most.append(budget.in_flight)
                time.sleep(0.0005)

    with ThreadPoolExecutor(16) as pool:
        done = [pool.submit(read, size) for size in (0, 1, 7, 20, 33, 50, 51, 99, 100, 3, 30, 40, 60, 70, 80, 90)]
        for future in done:
            future.result(timeout=60)
    assert max(most) <= 100
    assert budget.in_flight == 0


def test_what_is_larger_than_the_budget_is_let_through_alone() -> None:
    budget = ReadBudget(100)
    seen: list[int] = []

    def read(size: int) -> None:
        for _ in range(10):
            with budget.reserve(size):
                seen.append(budget.in_flight)
                time.sleep(0.0005)

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(read, size) for size in (1000, 60, 60, 5, 2000, 10, 10, 10)]
        for future in done:
            future.result(timeout=60)
    assert {size for size in seen if size > 100} == {1000, 2000}
    assert budget.in_flight == 0


def test_a_large_one_is_not_passed_over() -> None:
    budget = ReadBudget(100)
    order: list[str] = []

    def reserve(name: str, size: int) -> None:
        with budget.reserve(size):
            order.append(name)

    with budget.reserve(50):
        threads = []
        for name, size in (("large", 80), ("small", 10), ("smaller", 1)):
            threads.append(threading.Thread(target=reserve, args=(name, size)))
            threads[-1].start()
            time.sleep(0.05)
        assert order == []
    for thread in threads:
        thread.join(timeout=10)
    assert order[0] == "large"
    assert len(order) == 3


def test_an_error_gives_the_bytes_back() -> None:
    budget = ReadBudget(10)
    with pytest.raises(KeyError), budget.reserve(10):
        raise KeyError
    with budget.reserve(10):
        assert budget.in_flight == 10


def test_what_would_wait_for_itself_is_refused() -> None:
    budget = ReadBudget(10)
    with budget.reserve(6):
        with pytest.raises(RuntimeError, match="reserve the sum"), budget.reserve(1):
            pass
        assert budget.in_flight == 6
    with pytest.raises(ValueError, match="must not be negative"), budget.reserve(-1):
        pass
    with pytest.raises(ValueError, match="at least 1"):
        ReadBudget(0)
