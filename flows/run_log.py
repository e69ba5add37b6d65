"""What the pipeline logs during a flow run becomes part of the run's log on the server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from prefect.logging import get_run_logger

_OURS: Final = ("flows", "tasks")


class _ToRun(logging.Handler):
    """Hands records to the logger of one flow run, from whatever thread they come."""

    def __init__(self, run_logger: logging.LoggerAdapter[Any]) -> None:
        super().__init__()
        self._run_logger = run_logger

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on."""
        self._run_logger.log(record.levelno, "%s", record.getMessage(), exc_info=record.exc_info)


@contextmanager
def run_log() -> Iterator[None]:
    """For the time of the block, which lies in a flow run, its log has what our packages log from INFO on."""
    run_logger = get_run_logger()
    assert isinstance(run_logger, logging.LoggerAdapter)  # noqa: S101 - a flow run's always is
    handler = _ToRun(run_logger)
    loggers = [logging.getLogger(name) for name in _OURS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        # The flow run's logger writes to the console by itself.
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
