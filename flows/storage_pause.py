"""Wait for a store that is out of reach, instead of ending a run that nobody watches."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from tasks.storage import StorageError, may_pass

logger = logging.getLogger(__name__)

PATIENCE_S: Final = 900.0
"""A store that has been out of reach for so long ends the run."""

PAUSE_S: Final = 10.0
"""Seconds between two tries, each of which asks for half a minute, or for five of a store that hangs."""

_FORGOTTEN_S: Final = PATIENCE_S
"""Seconds without an error after which one is of another outage."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Outage:
    """How long a store has been out of reach.

    Whoever handles an error after others asks the same outage, so that it is waited for once, not once by each.

    Args:
        clock: seconds, such as ``time.monotonic``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = self._last = -math.inf
        self._given_up: StorageError | None = None

    def may_pass(self, error: StorageError) -> bool:
        """Whether to try again after this error: the store does not answer, and has not been silent for too long.

        No is the answer for good: what is cleared away meanwhile takes time, in which the outage may look forgotten.
        """
        if error is self._given_up:
            return False
        now = self._clock()
        if now - self._last > _FORGOTTEN_S:
            self._since = now
        self._last = now
        if may_pass(error) and now - self._since < PATIENCE_S:
            return True
        self._given_up = error
        return False

    def end(self) -> None:
        """The store answers: its next silence is another outage."""
        self._since = self._last = -math.inf

    async def wait(self, error: StorageError) -> None:
        """Say so, and let some time pass."""
        logger.warning("%s The run waits for it.", error)
        await asyncio.sleep(PAUSE_S)


async def sit_out(
    outage: Outage, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Call ``function`` in a thread, again while the store that it needs is out of reach.

    Raises:
        StorageError: that of ``function``, when it is of another kind or has stayed for ``PATIENCE_S``.
    """
    while True:
        try:
            result = await asyncio.to_thread(function, *args, **kwargs)
        except StorageError as error:
            if not outage.may_pass(error):
                raise
            passing = error
        else:
            outage.end()
            return result
        await outage.wait(passing)
