"""Files of a run that never change, where they can be read piece by piece; fetched once per process."""

from __future__ import annotations

import atexit
import mmap
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from tasks.codes import Code, PairError
from tasks.scratch import folder_prefix
from tasks.storage import StorageError, fetch_into, local_path, stat_file
from tasks.tables import fetch_needed


def local_copy(uri: str, advice: str) -> Path:
    """The file itself for a local place, else a copy of it, kept until the process ends.

    Args:
        uri: a file that is written once and never changed.
        advice: what to do when it is not there.

    Raises:
        StorageError: it does not exist or cannot be read.
    """
    return _existing(uri, advice) or _fetched(uri, _version(uri, advice))


def nameless_copy(uri: str, advice: str) -> Path | pa.Buffer:
    """The file itself for a local place, else the content of a copy that has no name, so that nothing finds it.

    However the process ends, the copy is gone with it. Its bytes stay on disk until they are looked at.

    Args:
        uri: a file that is written once and never changed.
        advice: what to do when it is not there.

    Raises:
        StorageError: it does not exist or cannot be read.
    """
    return _existing(uri, advice) or _mapped(uri, _version(uri, advice))


def _existing(uri: str, advice: str) -> Path | None:
    path = local_path(uri)
    if path is not None and not path.exists():
        raise StorageError(uri, "does not exist", advice)
    return path


def _version(uri: str, advice: str) -> str:
    try:
        return stat_file(uri).fingerprint
    except PairError as error:
        problem = "does not exist" if error.code == Code.MISSING_SOURCE else f"cannot be read ({error.detail})"
        raise StorageError(uri, problem, f"restore the file; {advice}") from error


@lru_cache(maxsize=4)
def _fetched(uri: str, version: str) -> Path:  # noqa: ARG001 - the version makes a new entry
    folder = Path(tempfile.mkdtemp(prefix=folder_prefix()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return fetch_needed(uri, folder)


@lru_cache(maxsize=4)
def _mapped(uri: str, version: str) -> pa.Buffer:  # noqa: ARG001 - the version makes a new entry
    try:
        with tempfile.TemporaryFile() as file:
            fetch_into(uri, file)
            file.flush()
            # Of no bytes there is no map.
            return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b"")
    except PairError as error:
        raise StorageError(uri, f"cannot be read ({error.detail})", "check access, then run again") from error
    except OSError as error:
        problem = f"cannot be copied to the temporary folder ({error.strerror})"
        raise StorageError(uri, problem, "make room where TMPDIR says, then run again") from error
