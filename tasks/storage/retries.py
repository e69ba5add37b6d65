"""Ask again what may pass: waits that grow, differ between readers, and are counted."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from tasks.storage.errors import is_transient
from tasks.storage.paths import local_path, store_of

TRIES: Final = 7
"""Requests to a store that has not answered yet in this process, so that a wrong address is told within seconds."""

PATIENT_TRIES: Final = 10
"""Requests to a remote store that has answered before: half a minute, in which a gateway restarts."""

FIRST_ANSWER_S: Final = 6.0
"""A store that has not answered yet is tried twice, and again only within this time."""

BACK_OFF_S: Final = 0.1
"""Seconds before the second try, doubled for each further one; 50 to 100 % of it are waited."""

LONGEST_WAIT_S: Final = 10.0

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_guard = threading.Lock()
_retries = 0
_answered: set[str] = set()


def retries_made() -> int:
    """Requests of this process that were made again, since it started.

    Without those that aiohttp itself makes again, once, when a kept connection was closed before any answer came.
    """
    return _retries


def retrying(uri: str, call: Callable[[], _T]) -> _T:
    """The result of ``call``, made again after errors that may pass.

    Raises:
        Exception: the last error of ``call``, or the first one that does not pass.
    """
    store = store_of(uri)
    started = time.monotonic()
    attempt = 1
    while True:
        try:
            result = call()
        except Exception as error:
            if not is_transient(error) or _is_last(uri, store, attempt, time.monotonic() - started):
                raise
            _count()
            _log.debug("attempt %d: %s", attempt, type(error).__name__)
            longest = min(BACK_OFF_S * 2 ** (attempt - 1), LONGEST_WAIT_S)
            time.sleep(longest * random.uniform(0.5, 1))  # noqa: S311 - spreads retries, no secret
            attempt += 1
        else:
            _answered.add(store)
            return result


def _is_last(uri: str, store: str, attempt: int, elapsed_s: float) -> bool:
    # A damaged local disk does not heal while one waits.
    if local_path(uri) is not None:
        return attempt >= TRIES
    if store in _answered:
        return attempt >= PATIENT_TRIES
    return attempt >= TRIES or (attempt > 1 and elapsed_s >= FIRST_ANSWER_S)


def _count() -> None:
    global _retries
    with _guard:
        _retries += 1
