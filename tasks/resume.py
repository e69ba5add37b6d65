"""Which unfinished run can go on: one whose files can still be found."""

from __future__ import annotations

from tasks.codes import ConfigurationError
from tasks.run_folder import RunFolder, unfinished_run
from tasks.settings import RunSettings, read_settings
from tasks.storage import exists


def lacks_private_table(settings: RunSettings) -> bool:
    """Whether a run needs a private table and has none, so that it cannot find its files.

    Raises:
        StorageError: it cannot be told.
    """
    return settings.job.has_private_table and not exists(settings.private_uri)


def waiting_run(dest: str, method: str) -> RunFolder | None:
    """The unfinished run of a method that a job may go on with; None when there is none, or it is given up.

    A run is given up when its configuration cannot be used, or its private table is gone.

    Raises:
        StorageError: the destination or the place of the private table cannot be read.
    """
    run = unfinished_run(dest, method)
    if run is None:
        return None
    try:
        return None if lacks_private_table(read_settings(run)) else run
    except ConfigurationError:
        return None
